package main

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tests/clients/check"
)

// crash kills the broker twice amid producing and consuming. Every acknowledged record is there
// once and in order, a group reads them all, and its committed offsets never go back.
func crash(address string) {
	topic, group := "franz-crash", "franz-crash"
	create(address, topic, partitions)
	consumer := join(address, group, topic)
	producer := client(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	made := kadm.NewClient(producer)
	var committed map[int32]int64
	for number := 0; number < 3000; number += 10 {
		if number == 1000 || number == 2000 {
			check.Crashed()
			committed = atLeast(made, group, committed)
			check.Crash()
		}
		send(producer, topic, number, number+10)
	}
	check.Crashed()
	check.Until("all to be committed", func() bool {
		committed = atLeast(made, group, committed)
		return committed[0]+committed[1]+committed[2]+committed[3] == 3000
	})
	seen := map[int]bool{}
	for _, found := range consumer.taken() {
		number, _ := strconv.Atoi(string(found.Value))
		seen[number] = true
		check.Equal("offset", int64(number/partitions), found.Offset)
	}
	check.Equal("records that the group read", 3000, len(seen))
	consumer.leave()
	producer.Close()

	again := client(address, kgo.ConsumeTopics(topic))
	expectNumbers("after crashes", read(again, 3000), 0, 3000)
	again.Close()
}

// atLeast returns a group's committed offsets, none of which may be below what it was.
func atLeast(made *kadm.Client, group string, before map[int32]int64) map[int32]int64 {
	fetched, err := made.FetchOffsets(ctx, group)
	check.NoError("committed offsets", err)
	found := map[int32]int64{}
	fetched.Each(func(each kadm.OffsetResponse) {
		check.NoError("a committed offset", each.Err)
		found[each.Partition] = each.At
	})
	for partition, offset := range before {
		check.That(found[partition] >= offset, "partition %d: committed %d, then %d", partition,
			offset, found[partition])
	}
	return found
}
