package main

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tests/clients/check"
)

// produce sends with every compression and reads everything back as it was sent.
func produce(address string) {
	codecs := map[string]kgo.CompressionCodec{
		"none":   kgo.NoCompression(),
		"gzip":   kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(),
		"lz4":    kgo.Lz4Compression(),
		"zstd":   kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		topic := "franz-" + name
		create(address, topic, partitions)
		producer := client(address, kgo.ProducerBatchCompression(codec),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
		send(producer, topic, 0, 1000)
		producer.Close()

		consumer := client(address, kgo.ConsumeTopics(topic))
		records := read(consumer, 1000)
		consumer.Close()
		expectNumbers(name, records, 0, 1000)
		for _, found := range records {
			number, _ := strconv.Atoi(string(found.Value))
			sent := record(topic, number)
			check.Equal("key", sent.Key, found.Key)
			check.Equal("headers", sent.Headers, found.Headers)
			check.Equal("time", sent.Timestamp.UnixMilli(), found.Timestamp.UnixMilli())
			check.Equal("offset", int64(number/partitions), found.Offset)
		}
	}
}

// acks sends with every number of acknowledgements; none needs reading back to know.
func acks(address string) {
	for name, acks := range map[string]kgo.Acks{
		"none": kgo.NoAck(), "leader": kgo.LeaderAck(), "all": kgo.AllISRAcks(),
	} {
		topic := "franz-acks-" + name
		create(address, topic, partitions)
		producer := client(address, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite(),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
		for number := 0; number < 100; number++ {
			result := producer.ProduceSync(ctx, record(topic, number))
			check.NoError("acks "+name, result.FirstErr())
		}
		producer.Close()
		consumer := client(address, kgo.ConsumeTopics(topic))
		expectNumbers("acks "+name, read(consumer, 100), 0, 100)
		consumer.Close()
	}
}

// times looks offsets up by time and begins to consume in every place that a consumer can name.
func times(address string) {
	topic := "franz-times"
	create(address, topic, partitions)
	producer := client(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send(producer, topic, 0, 400)

	made := kadm.NewClient(producer)
	listed, err := made.ListOffsetsAfterMilli(ctx, check.BaseMs+202, topic)
	check.NoError("offsets by time", err)
	for partition, expected := range map[int32]int64{0: 51, 1: 51, 2: 50, 3: 50} {
		found, _ := listed.Lookup(topic, partition)
		check.NoError("offset by time", found.Err)
		check.Equal("offset by time", expected, found.Offset)
	}
	for what, lookup := range map[string]struct {
		list     func() (kadm.ListedOffsets, error)
		expected int64
	}{
		"start": {func() (kadm.ListedOffsets, error) { return made.ListStartOffsets(ctx, topic) }, 0},
		"end":   {func() (kadm.ListedOffsets, error) { return made.ListEndOffsets(ctx, topic) }, 100},
		"largest time": {
			func() (kadm.ListedOffsets, error) { return made.ListMaxTimestampOffsets(ctx, topic) }, 99,
		},
		"past the end": {
			func() (kadm.ListedOffsets, error) {
				return made.ListOffsetsAfterMilli(ctx, check.BaseMs+1_000_000, topic)
			}, 100,
		},
	} {
		listed, err := lookup.list()
		check.NoError(what, err)
		listed.Each(func(found kadm.ListedOffset) {
			check.NoError(what, found.Err)
			check.Equal(what, lookup.expected, found.Offset)
		})
	}

	begin(address, topic, "start", kgo.NewOffset().AtStart(), 0)
	begin(address, topic, "exactly", kgo.NewOffset().At(60), 60)
	begin(address, topic, "relative", kgo.NewOffset().AtEnd().Relative(-10), 90)
	begin(address, topic, "by time", kgo.NewOffset().AfterMilli(check.BaseMs+200), 50)
	atEnd(address, topic, producer)
}

// begin consumes partition 0 of a topic of 100 records and expects the first one's offset.
func begin(address, topic, what string, offset kgo.Offset, first int64) {
	consumer := client(address, kgo.ConsumePartitions(
		map[string]map[int32]kgo.Offset{topic: {0: offset}}))
	defer consumer.Close()
	records := read(consumer, int(100-first))
	check.Equal(what, first, records[0].Offset)
	check.Equal(what, int64(99), records[len(records)-1].Offset)
}

// atEnd waits at the end of a partition and gets only what comes later, at once.
func atEnd(address, topic string, producer *kgo.Client) {
	consumer := client(address, kgo.FetchMaxWait(20*time.Second), kgo.ConsumePartitions(
		map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtEnd()}}))
	defer consumer.Close()
	polled := make(chan []*kgo.Record)
	go func() { polled <- read(consumer, 1) }()
	time.Sleep(time.Second)
	sent := time.Now()
	check.NoError("sending", producer.ProduceSync(ctx, record(topic, 400)).FirstErr())
	check.Equal("at the end", int64(100), (<-polled)[0].Offset)
	check.That(time.Since(sent) < 10*time.Second, "a waiting fetch was not woken")
}
