package main

import (
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"millrace/tests/clients/check"
)

// versionByID is the first version of Produce and of Fetch that names topics by id.
const versionByID = 13

// byID is a client that produces and fetches by topic id or not at all.
func byID(address string, options ...kgo.Opt) *kgo.Client {
	var least kversion.Versions
	least.SetMaxKeyVersion(int16(kmsg.Produce), versionByID)
	least.SetMaxKeyVersion(int16(kmsg.Fetch), versionByID)
	return client(address, append(options, kgo.MinVersions(&least))...)
}

// topicIDs has every node asked by id, for what it leads and for what others lead. A topic that is
// made again is another one, on every node.
func topicIDs(address string) {
	topic := "franz-ids"
	create(address, topic, partitions)
	producer := byID(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send(producer, topic, 0, 400)
	consumer := byID(address, kgo.ConsumeTopics(topic))
	expectNumbers("by id", read(consumer, 400), 0, 400)
	consumer.Close()

	asker := byID(address)
	defer asker.Close()
	old := topicID(address, topic)
	fetchFromAll(asker, old, nil, 100)
	_, err := kadm.NewClient(asker).DeleteTopic(ctx, topic)
	check.NoError("deleting "+topic, err)
	fetchFromAll(asker, old, kerr.UnknownTopicID, -1)
	create(address, topic, partitions)
	fetchFromAll(asker, old, kerr.UnknownTopicID, -1)
	fetchFromAll(asker, topicID(address, topic), nil, 0)
}

// topicID asks anew: a client that has asked before may answer from memory, of a topic that is gone.
func topicID(address, topic string) kadm.TopicID {
	asker := byID(address)
	defer asker.Close()
	listed, err := kadm.NewClient(asker).ListTopics(ctx, topic)
	check.NoError("listing "+topic, err)
	return listed[topic].ID
}

// fetchFromAll asks each node for the start of each partition.
func fetchFromAll(asker *kgo.Client, id kadm.TopicID, expected error, end int64) {
	nodes, err := kadm.NewClient(asker).ListBrokers(ctx)
	check.NoError("listing nodes", err)
	for _, node := range nodes {
		request := kmsg.NewPtrFetchRequest()
		request.MaxBytes = 1 << 20
		asked := kmsg.NewFetchRequestTopic()
		asked.TopicID = id
		for partition := int32(0); partition < partitions; partition++ {
			start := kmsg.NewFetchRequestTopicPartition()
			start.Partition = partition
			start.PartitionMaxBytes = 1 << 20
			asked.Partitions = append(asked.Partitions, start)
		}
		request.Topics = append(request.Topics, asked)
		response, err := request.RequestWith(ctx, asker.Broker(int(node.NodeID)))
		check.NoError("fetching by id", err)
		check.Equal("topics", 1, len(response.Topics))
		check.Equal("topic's id", [16]byte(id), response.Topics[0].TopicID)
		check.Equal("partitions", partitions, len(response.Topics[0].Partitions))
		for _, found := range response.Topics[0].Partitions {
			check.Equal("fetching by id", expected, kerr.ErrorForCode(found.ErrorCode))
			check.Equal("end", end, found.HighWatermark)
			check.Equal("has records", end > 0, len(found.RecordBatches) > 0)
		}
	}
}
