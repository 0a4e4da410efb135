package main

import (
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"millrace/tests/clients/check"
)

// produce sends with every compression and every number of acknowledgements, idempotently too, and
// reads everything back as it was sent.
func (c client) produce() {
	ways := map[string]func(*sarama.Config){
		"none":   func(*sarama.Config) {},
		"gzip":   func(to *sarama.Config) { to.Producer.Compression = sarama.CompressionGZIP },
		"snappy": func(to *sarama.Config) { to.Producer.Compression = sarama.CompressionSnappy },
		"lz4":    func(to *sarama.Config) { to.Producer.Compression = sarama.CompressionLZ4 },
		"zstd":   func(to *sarama.Config) { to.Producer.Compression = sarama.CompressionZSTD },
		"leader": func(to *sarama.Config) { to.Producer.RequiredAcks = sarama.WaitForLocal },
		"silent": func(to *sarama.Config) { to.Producer.RequiredAcks = sarama.NoResponse },
		"exact": func(to *sarama.Config) {
			to.Producer.Idempotent = true
			to.Net.MaxOpenRequests = 1
		},
	}
	for name, way := range ways {
		topic := c.name(name)
		c.create(topic)
		producer := c.producer(way)
		sent := send(producer, topic, 0, 400)
		check.NoError("closing", producer.Close())
		if name != "silent" {
			for number, each := range sent {
				check.Equal(name+": offset", int64(number/partitions), each.Offset)
			}
		}
		for partition := int32(0); partition < partitions; partition++ {
			for index, found := range c.read(topic, partition, 0, 100) {
				number := index*partitions + int(partition)
				text := strconv.Itoa(number)
				check.Equal(name+": value", text, string(found.Value))
				check.Equal(name+": key", "key "+text, string(found.Key))
				check.Equal(name+": header", text, string(found.Headers[0].Value))
				check.Equal(name+": time", check.BaseMs+int64(number), found.Timestamp.UnixMilli())
				check.Equal(name+": offset", int64(index), found.Offset)
			}
		}
	}
	check.Equal("the middle of a batch", "202", string(c.read(c.name("zstd"), 2, 50, 1)[0].Value))
}

// read consumes a partition without a group.
func (c client) read(topic string, partition int32, from int64, count int) []*sarama.ConsumerMessage {
	consumer, err := sarama.NewConsumer([]string{c.address}, c.config())
	check.NoError("making a consumer", err)
	defer consumer.Close()
	part, err := consumer.ConsumePartition(topic, partition, from)
	check.NoError("consuming "+topic, err)
	defer part.Close()
	var messages []*sarama.ConsumerMessage
	patience := time.After(check.Patience)
	for len(messages) < count {
		select {
		case found := <-part.Messages():
			messages = append(messages, found)
		case <-patience:
			check.That(false, "%s: %d of %d messages", topic, len(messages), count)
		}
	}
	return messages
}

// crash kills the broker twice amid producing and consuming. Every acknowledged message is there
// once and in order, a group reads them all, and its committed offsets never go back.
func (c client) crash() {
	topic, group := c.name("crash"), c.name("crash")
	c.create(topic)
	held := c.join(group, topic, sarama.NewBalanceStrategyRange())
	producer := c.producer(func(to *sarama.Config) {
		to.Producer.Idempotent = true
		to.Net.MaxOpenRequests = 1
		to.Producer.Retry.Max = 100
	})
	var committed map[int32]int64
	for number := 0; number < 1200; number += 4 {
		if number == 400 || number == 800 {
			check.Crashed()
			committed = c.atLeast(group, topic, committed)
			check.Crash()
		}
		send(producer, topic, number, number+4)
	}
	check.Crashed()
	check.Until("all to be committed", func() bool {
		committed = c.atLeast(group, topic, committed)
		return committed[0]+committed[1]+committed[2]+committed[3] == 1200
	})
	seen := map[string]bool{}
	for _, found := range held.taken() {
		number, _ := strconv.Atoi(string(found.Value))
		check.Equal("offset", int64(number/partitions), found.Offset)
		seen[string(found.Value)] = true
	}
	check.Equal("messages that the group read", 1200, len(seen))
	held.leave()
	check.NoError("closing", producer.Close())
	for partition := int32(0); partition < partitions; partition++ {
		for index, found := range c.read(topic, partition, 0, 300) {
			check.Equal("value", strconv.Itoa(index*partitions+int(partition)), string(found.Value))
		}
	}
}

// atLeast returns a group's committed offsets, none of which may be below what it was.
func (c client) atLeast(group, topic string, before map[int32]int64) map[int32]int64 {
	found := c.committed(group, topic)
	for partition, offset := range before {
		check.That(found[partition] >= offset, "partition %d: committed %d, then %d", partition,
			offset, found[partition])
	}
	return found
}
