package main

import (
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tests/clients/check"
)

func text(value string) *string { return &value }

// topics makes topics, describes and changes them, and takes them away.
func topics(address string) {
	made := admin(address)
	defer made.Close()
	settings := map[string]*string{"retention.ms": text("86400000")}
	created, err := made.CreateTopics(ctx, 3, -1, settings, "franz-made", "franz-made-too")
	check.NoError("creating topics", err)
	check.NoError("creating topics", created.Error())
	check.Equal("partitions created", int32(3), created["franz-made"].NumPartitions)
	dry, err := made.ValidateCreateTopics(ctx, 1, 1, nil, "franz-dry")
	check.NoError("a rehearsal", err)
	check.NoError("a rehearsal", dry.Error())

	grown, err := made.CreatePartitions(ctx, 2, "franz-made")
	check.NoError("more partitions", err)
	check.NoError("more partitions", grown.Error())
	listed, err := made.ListTopics(ctx)
	check.NoError("listing topics", err)
	check.That(!listed.Has("franz-dry"), "a rehearsal made a topic")
	check.Equal("partitions listed", 5, len(listed["franz-made"].Partitions))
	for _, partition := range listed["franz-made"].Partitions {
		check.NoError("a partition", partition.Err)
		check.Equal("replicas", []int32{partition.Leader}, partition.ISR)
	}

	expectSetting(made, "franz-made", "retention.ms", "86400000")
	changed, err := made.AlterTopicConfigs(ctx, []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "max.message.bytes", Value: text("5000")},
		{Op: kadm.DeleteConfig, Name: "retention.ms"},
	}, "franz-made")
	check.NoError("changing settings", err)
	check.NoError("changing settings", changed[0].Err)
	expectSetting(made, "franz-made", "max.message.bytes", "5000")
	expectSetting(made, "franz-made", "retention.ms", "604800000")
	replaced, err := made.AlterTopicConfigsState(ctx, []kadm.AlterConfig{
		{Name: "retention.ms", Value: text("1000000")},
	}, "franz-made")
	check.NoError("replacing settings", err)
	check.NoError("replacing settings", replaced[0].Err)
	expectSetting(made, "franz-made", "retention.ms", "1000000")

	brokers, err := made.ListBrokers(ctx)
	check.NoError("listing brokers", err)
	own, err := made.DescribeBrokerConfigs(ctx, brokers.NodeIDs()...)
	check.NoError("settings of brokers", err)
	check.Equal("brokers described", len(brokers), len(own))
	versions, err := made.ApiVersions(ctx)
	check.NoError("versions", err)
	for _, each := range versions {
		check.NoError("versions", each.Err)
	}

	deleted, err := made.DeleteTopics(ctx, "franz-made", "franz-made-too")
	check.NoError("deleting topics", err)
	check.NoError("deleting topics", deleted.Error())
	// The client remembers metadata for a while.
	check.Until("deleted topics to be gone", func() bool {
		left, err := made.ListTopics(ctx)
		check.NoError("listing topics", err)
		return !left.Has("franz-made") && !left.Has("franz-made-too")
	})
}

func expectSetting(made *kadm.Client, topic, name, expected string) {
	described, err := made.DescribeTopicConfigs(ctx, topic)
	check.NoError("describing "+topic, err)
	for _, setting := range described[0].Configs {
		if setting.Key == name {
			check.Equal(name, expected, setting.MaybeValue())
			return
		}
	}
	check.That(false, "%s is not described", name)
}

// offsets commits, reads, measures and deletes a group's offsets without being a member.
func offsets(address string) {
	topic, group := "franz-offsets", "franz-offsets"
	create(address, topic, partitions)
	producer := client(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send(producer, topic, 0, 400)
	made := kadm.NewClient(producer)

	var wanted kadm.Offsets
	for partition := int32(0); partition < partitions; partition++ {
		wanted.Add(kadm.Offset{
			Topic: topic, Partition: partition, At: int64(10 * partition), Metadata: "by hand",
		})
	}
	check.NoError("committing", made.CommitAllOffsets(ctx, group, wanted))
	fetched, err := made.FetchOffsets(ctx, group)
	check.NoError("offsets", err)
	found, known := fetched.Lookup(topic, 3)
	check.That(known, "no offset of partition 3")
	check.Equal("offset", int64(30), found.At)
	check.Equal("metadata", "by hand", found.Metadata)
	lags, err := made.Lag(ctx, group)
	check.NoError("lag", err)
	check.NoError("lag", lags.Error())
	check.Equal("lag", int64(400-60), lags[group].Lag.Total())
	many := made.FetchManyOffsets(ctx, group, "franz-nobody")
	check.NoError("offsets of several groups", many.Error())
	check.Equal("offsets of nobody", 0, len(many["franz-nobody"].Fetched))

	listed, err := made.ListGroups(ctx, "Empty")
	check.NoError("listing groups", err)
	check.That(listed[group].Group == group, "%s is not listed: %v", group, listed)
	set := kadm.TopicsSet{}
	set.Add(topic, 3)
	removed, err := made.DeleteOffsets(ctx, group, set)
	check.NoError("deleting an offset", err)
	check.NoError("deleting an offset", removed.Error())
	fetched, err = made.FetchOffsets(ctx, group)
	check.NoError("offsets", err)
	_, known = fetched.Lookup(topic, 3)
	check.That(!known, "a deleted offset is there")

	deleted, err := made.DeleteGroup(ctx, group)
	check.NoError("deleting a group", err)
	check.NoError("deleting a group", deleted.Err)
	described, err := made.DescribeGroups(ctx, group)
	check.NoError("describing", err)
	check.Equal("a deleted group", "Dead", described[group].State)
}

// refusals expects each wrong request to be answered with Kafka's own code.
func refusals(address string) {
	topic := "franz-refusals"
	create(address, topic, partitions)
	made := admin(address)
	defer made.Close()
	refusedCreations(made, topic)

	_, err := made.DeleteTopic(ctx, "franz-no-such-topic")
	check.ErrorIs("deleting what is not there", kerr.UnknownTopicOrPartition, err)
	fewer, err := made.UpdatePartitions(ctx, 2, topic)
	check.NoError("fewer partitions", err)
	check.ErrorIs("fewer partitions", kerr.InvalidPartitions, fewer[topic].Err)
	wrong, err := made.AlterTopicConfigs(ctx, []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "retention.ms", Value: text("soon")},
	}, topic)
	check.NoError("a wrong setting", err)
	check.ErrorIs("a wrong setting", kerr.InvalidConfig, wrong[0].Err)
	gone, err := made.DeleteGroup(ctx, "franz-no-such-group")
	if err == nil {
		err = gone.Err
	}
	check.ErrorIs("deleting no group", kerr.GroupIDNotFound, err)

	held := join(address, "franz-held", topic)
	shares(made, "franz-held", partitions)
	occupied, err := made.DeleteGroup(ctx, "franz-held")
	if err == nil {
		err = occupied.Err
	}
	check.ErrorIs("deleting a group with members", kerr.NonEmptyGroup, err)
	held.leave()

	producer := client(address, kgo.ProducerBatchMaxBytes(2<<20),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	large := &kgo.Record{Topic: topic, Value: []byte(strings.Repeat("x", 3<<19))}
	check.ErrorIs("a large record", kerr.MessageTooLarge, producer.ProduceSync(ctx, large).FirstErr())
	producer.Close()
	transactional := client(address, kgo.TransactionalID("franz"))
	err = transactional.BeginTransaction()
	refused := kerr.TransactionalIDAuthorizationFailed
	check.That(err != nil && strings.Contains(err.Error(), refused.Message), "a transaction: %v", err)
	transactional.Close()

	lost := client(address, kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.ConsumePartitions(
		map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(1000)}}))
	err = lost.PollFetches(ctx).Err()
	check.That(errors.Is(err, kerr.OffsetOutOfRange), "past the end: %v", err)
	lost.Close()
}

func refusedCreations(made *kadm.Client, topic string) {
	for what, wrong := range map[string]struct {
		topic      string
		partitions int32
		replicas   int16
		settings   map[string]*string
		expected   error
	}{
		"there already": {topic, 1, 1, nil, kerr.TopicAlreadyExists},
		"a wrong name":  {"franz topic", 1, 1, nil, kerr.InvalidTopicException},
		"no partitions": {"franz-new", 0, 1, nil, kerr.InvalidPartitions},
		"replicas":      {"franz-new", 1, 3, nil, kerr.InvalidReplicationFactor},
		"a wrong setting": {
			"franz-new", 1, 1, map[string]*string{"retention.ms": text("soon")}, kerr.InvalidConfig,
		},
	} {
		_, err := made.CreateTopic(ctx, wrong.partitions, wrong.replicas, wrong.settings, wrong.topic)
		check.ErrorIs(what, wrong.expected, err)
	}
}
