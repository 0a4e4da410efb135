// franz checks the broker as franz-go and its admin client see it.
package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tests/clients/check"
)

const partitions = 4

var ctx = context.Background()

func main() {
	check.Main([]check.Scenario{
		{Name: "franz produce", Run: produce},
		{Name: "franz acks", Run: acks},
		{Name: "franz times", Run: times},
		{Name: "franz topic ids", Run: topicIDs},
		{Name: "franz groups", Run: groups},
		{Name: "franz static member", Run: staticMember},
		{Name: "franz topics", Run: topics},
		{Name: "franz offsets", Run: offsets},
		{Name: "franz refusals", Run: refusals},
		{Name: "franz crash", Run: crash},
	})
}

func client(address string, options ...kgo.Opt) *kgo.Client {
	options = append(options, kgo.SeedBrokers(address), kgo.MetadataMinAge(10*time.Millisecond))
	made, err := kgo.NewClient(options...)
	check.NoError("making a client", err)
	return made
}

func admin(address string) *kadm.Client {
	return kadm.NewClient(client(address))
}

func create(address, topic string, count int32) {
	made := admin(address)
	defer made.Close()
	_, err := made.CreateTopic(ctx, count, 1, nil, topic)
	check.NoError("creating "+topic, err)
}

// record has everything that a record may have, told apart by its number.
func record(topic string, number int) *kgo.Record {
	return &kgo.Record{
		Topic:     topic,
		Partition: int32(number % partitions),
		Key:       []byte(fmt.Sprintf("key %d", number)),
		Value:     []byte(strconv.Itoa(number)),
		Headers:   []kgo.RecordHeader{{Key: "number", Value: []byte(strconv.Itoa(number))}, {Key: "empty"}},
		Timestamp: time.UnixMilli(check.BaseMs + int64(number)),
	}
}

// send produces records numbered from..to and expects each partition's offsets to be dense.
func send(producer *kgo.Client, topic string, from, to int) {
	var records []*kgo.Record
	for number := from; number < to; number++ {
		records = append(records, record(topic, number))
	}
	next := map[int32]int64{}
	for _, result := range producer.ProduceSync(ctx, records...) {
		check.NoError("producing to "+topic, result.Err)
		at, known := next[result.Record.Partition]
		check.That(!known || result.Record.Offset == at, "%s: offset %d after %d", topic,
			result.Record.Offset, at-1)
		next[result.Record.Partition] = result.Record.Offset + 1
	}
}

// read polls until it has that many records.
func read(consumer *kgo.Client, count int) []*kgo.Record {
	limited, cancel := context.WithTimeout(ctx, check.Patience)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := consumer.PollFetches(limited)
		check.NoError(fmt.Sprintf("polling after %d of %d", len(records), count), fetches.Err())
		records = append(records, fetches.Records()...)
	}
	check.Equal("records read", count, len(records))
	return records
}

// expectNumbers wants the records numbered from..to, each once, those of a partition in order.
func expectNumbers(what string, records []*kgo.Record, from, to int) {
	check.Equal(what+": records", to-from, len(records))
	last := map[int32]int{}
	for _, found := range records {
		number, err := strconv.Atoi(string(found.Value))
		check.NoError(what, err)
		before, known := last[found.Partition]
		check.That(!known || number == before+partitions, "%s: %d after %d", what, number, before)
		check.That(known || number-from < partitions, "%s: begins with %d", what, number)
		check.Equal(what+": partition", int32(number%partitions), found.Partition)
		last[found.Partition] = number
	}
}
