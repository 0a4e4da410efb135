package main

import (
	"strings"

	"github.com/IBM/sarama"

	"millrace/tests/clients/check"
)

// admin makes topics, describes and changes them, takes them away, and is refused what is wrong.
func (c client) admin() {
	admin := c.clusterAdmin()
	defer admin.Close()
	topic := c.name("made")
	retention, size := "86400000", "5000"
	detail := &sarama.TopicDetail{
		NumPartitions: 3, ReplicationFactor: 1,
		ConfigEntries: map[string]*string{"retention.ms": &retention},
	}
	check.NoError("a rehearsal", admin.CreateTopic(topic, detail, true))
	check.NoError("creating", admin.CreateTopic(topic, detail, false))
	check.ErrorIs("creating again", sarama.ErrTopicAlreadyExists,
		admin.CreateTopic(topic, detail, false))
	check.ErrorIs("replicas", sarama.ErrInvalidReplicationFactor, admin.CreateTopic(topic+"-3",
		&sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 3}, false))
	check.NoError("more partitions", admin.CreatePartitions(topic, 5, nil, false))
	check.ErrorIs("fewer partitions", sarama.ErrInvalidPartitions,
		admin.CreatePartitions(topic, 2, nil, false))

	listed, err := admin.ListTopics()
	check.NoError("listing", err)
	check.Equal("partitions", int32(5), listed[topic].NumPartitions)
	check.Equal("settings", retention, *listed[topic].ConfigEntries["retention.ms"])
	described, err := admin.DescribeTopics([]string{topic, c.name("absent")})
	check.NoError("describing", err)
	check.Equal("partitions", 5, len(described[0].Partitions))
	check.Equal("absent", sarama.ErrUnknownTopicOrPartition, described[1].Err)

	check.NoError("replacing settings", admin.AlterConfig(sarama.TopicResource, topic,
		map[string]*string{"max.message.bytes": &size}, false))
	check.Equal("replaced", size, c.setting(admin, topic, "max.message.bytes"))
	check.Equal("by default", "604800000", c.setting(admin, topic, "retention.ms"))
	check.NoError("changing settings", admin.IncrementalAlterConfig(sarama.TopicResource, topic,
		map[string]sarama.IncrementalAlterConfigsEntry{
			"retention.ms":      {Value: &retention},
			"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationDelete},
		}, false))
	check.Equal("changed", retention, c.setting(admin, topic, "retention.ms"))
	check.Equal("deleted", "1048576", c.setting(admin, topic, "max.message.bytes"))

	brokers, controller, err := admin.DescribeCluster()
	check.NoError("the cluster", err)
	check.Equal("the controller", int32(1), controller)
	check.That(len(brokers) > 0, "no brokers")
	check.NoError("deleting", admin.DeleteTopic(topic))
	check.ErrorIs("deleting again", sarama.ErrUnknownTopicOrPartition, admin.DeleteTopic(topic))

	c.create(topic)
	large := message(topic, 0)
	large.Value = sarama.StringEncoder(strings.Repeat("x", 3<<19))
	producer := c.producer(func(to *sarama.Config) { to.Producer.MaxMessageBytes = 2 << 20 })
	_, _, err = producer.SendMessage(large)
	check.ErrorIs("a large message", sarama.ErrMessageSizeTooLarge, err)
	check.NoError("closing", producer.Close())
}

func (c client) setting(admin sarama.ClusterAdmin, topic, name string) string {
	entries, err := admin.DescribeConfig(sarama.ConfigResource{
		Type: sarama.TopicResource, Name: topic, ConfigNames: []string{name},
	})
	check.NoError("describing "+topic, err)
	check.Equal("settings described", 1, len(entries))
	return entries[0].Value
}

// offsets looks offsets up by time, and commits, lists and deletes those of a group.
func (c client) offsets() {
	topic, group := c.name("offsets"), c.name("offsets")
	c.create(topic)
	producer := c.producer(func(*sarama.Config) {})
	send(producer, topic, 0, 400)
	check.NoError("closing", producer.Close())

	plain, err := sarama.NewClient([]string{c.address}, c.config())
	check.NoError("making a client", err)
	defer plain.Close()
	for at, expected := range map[int64]int64{
		sarama.OffsetOldest: 0, sarama.OffsetNewest: 100, check.BaseMs + 201: 50, check.BaseMs + 202: 51,
	} {
		found, err := plain.GetOffset(topic, 1, at)
		check.NoError("an offset", err)
		check.Equal("an offset by time", expected, found)
	}
	manager, err := sarama.NewOffsetManagerFromClient(group, plain)
	check.NoError("managing offsets", err)
	part, err := manager.ManagePartition(topic, 2)
	check.NoError("managing offsets", err)
	part.MarkOffset(42, "by hand")
	check.NoError("managing offsets", part.Close())
	check.NoError("managing offsets", manager.Close())

	admin := c.clusterAdmin()
	defer admin.Close()
	check.Equal("committed", map[int32]int64{0: -1, 1: -1, 2: 42, 3: -1}, c.committed(group, topic))
	listed, err := admin.ListConsumerGroups()
	check.NoError("listing groups", err)
	_, known := listed[group]
	check.That(known, "%s is not listed", group)
	check.NoError("deleting an offset", admin.DeleteConsumerGroupOffset(group, topic, 2))
	check.Equal("deleted", int64(-1), c.committed(group, topic)[2])
	check.NoError("deleting a group", admin.DeleteConsumerGroup(group))
	err = admin.DeleteConsumerGroup(group)
	check.ErrorIs("deleting no group", sarama.ErrGroupIDNotFound, err)
}
