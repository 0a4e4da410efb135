package main

import (
	"time"

	"github.com/segmentio/kafka-go"

	"millrace/tests/clients/check"
)

// admin describes and changes topics and groups, and is refused what is wrong.
func admin(address string) {
	topic, group := "segmentio-admin", "segmentio-admin"
	asks := client(address)
	create(address, topic)
	again, err := asks.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}},
	})
	check.NoError("creating again", err)
	check.ErrorIs("creating again", kafka.TopicAlreadyExists, again.Errors[topic])
	changed, err := asks.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{
				Name: "retention.ms", Value: "86400000", ConfigOperation: kafka.ConfigOperationSet,
			}},
		}},
	})
	check.NoError("changing settings", err)
	check.NoError("changing settings", changed.Resources[0].Error)
	described, err := asks.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			ConfigNames: []string{"retention.ms"},
		}},
	})
	check.NoError("describing", err)
	check.Equal("retention.ms", "86400000", described.Resources[0].ConfigEntries[0].ConfigValue)
	grown, err := asks.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: 6}},
	})
	check.NoError("more partitions", err)
	check.NoError("more partitions", grown.Errors[topic])
	check.Until("more partitions", func() bool {
		metadata, err := asks.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
		check.NoError("metadata", err)
		return len(metadata.Topics[0].Partitions) == 6
	})

	sender := writer(address, topic)
	send(sender, 0, 40)
	check.NoError("closing", sender.Close())
	listed, err := asks.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{topic: {
			kafka.FirstOffsetOf(1), kafka.LastOffsetOf(1),
			kafka.TimeOffsetOf(1, time.UnixMilli(check.BaseMs+8)),
		}},
	})
	check.NoError("offsets", err)
	found := listed.Topics[topic][0]
	check.Equal("the first and the last", []int64{0, 10}, []int64{found.FirstOffset, found.LastOffset})
	_, known := found.Offsets[2]
	check.That(known, "by time: %v", found.Offsets)

	commits, err := asks.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: 1, Offset: 7}}},
	})
	check.NoError("committing", err)
	check.NoError("committing", commits.Topics[topic][0].Error)
	offsets, _ := committed(address, topic, group)
	check.Equal("committed", map[int]int64{0: -1, 1: 7, 2: -1, 3: -1}, offsets)
	gone, err := asks.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{group, "none"}})
	check.NoError("deleting groups", err)
	check.NoError("deleting a group", gone.Errors[group])
	check.ErrorIs("deleting no group", kafka.GroupIdNotFound, gone.Errors["none"])
	deleted, err := asks.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic, "none"}})
	check.NoError("deleting topics", err)
	check.NoError("deleting a topic", deleted.Errors[topic])
	check.ErrorIs("deleting no topic", kafka.UnknownTopicOrPartition, deleted.Errors["none"])
}

// crash kills the broker twice amid writing and reading. Its writer is not idempotent: what was in
// flight may be there twice, but nothing acknowledged is missing and commits never go back.
func crash(address string) {
	topic, group := "segmentio-crash", "segmentio-crash"
	create(address, topic)
	held := join(address, topic, group)
	sender := writer(address, topic)
	var before map[int]int64
	for number := 0; number < 1200; number += 4 {
		if number == 400 || number == 800 {
			check.Crashed()
			before = atLeast(address, topic, group, before)
			check.Crash()
		}
		send(sender, number, number+4)
	}
	check.Crashed()
	seen := map[string]bool{}
	check.Until("all to be read", func() bool {
		before = atLeast(address, topic, group, before)
		for _, found := range held.read() {
			seen[string(found.Value)] = true
		}
		return len(seen) == 1200
	})
	held.leave()
	check.NoError("closing", sender.Close())
}

func atLeast(address, topic, group string, before map[int]int64) map[int]int64 {
	found, _ := committed(address, topic, group)
	for partition, offset := range before {
		check.That(found[partition] >= offset, "partition %d: committed %d, then %d", partition,
			offset, found[partition])
	}
	return found
}
