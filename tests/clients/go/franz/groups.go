package main

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tests/clients/check"
)

// member consumes in a group until it is closed and commits all that it has read.
type member struct {
	client  *kgo.Client
	done    chan struct{}
	mutex   sync.Mutex
	records []*kgo.Record
	// revoked counts the partitions that were taken away while the group went on.
	revoked int
}

func join(address, group, topic string, options ...kgo.Opt) *member {
	made := &member{done: make(chan struct{})}
	made.client = client(address, append(options,
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
			made.mutex.Lock()
			defer made.mutex.Unlock()
			made.revoked += len(lost[topic])
		}),
	)...)
	go made.run()
	return made
}

func (m *member) run() {
	defer close(m.done)
	for {
		fetches := m.client.PollFetches(ctx)
		if fetches.IsClientClosed() {
			return
		}
		m.mutex.Lock()
		m.records = append(m.records, fetches.Records()...)
		m.mutex.Unlock()
		// A commit amid a rebalance may fail; what is expected of commits is checked by what the
		// next member reads.
		_ = m.client.CommitUncommittedOffsets(ctx)
	}
}

func (m *member) taken() []*kgo.Record {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	records := m.records
	m.records = nil
	return records
}

func (m *member) leave() {
	check.NoError("the last commit", m.client.CommitUncommittedOffsets(ctx))
	m.client.Close()
	<-m.done
}

// gather takes what members read until it is that many records.
func gather(count int, members ...*member) []*kgo.Record {
	var records []*kgo.Record
	check.Until("records of a group", func() bool {
		for _, each := range members {
			records = append(records, each.taken()...)
		}
		return len(records) >= count
	})
	return records
}

// shares waits until a stable group's members hold that many partitions, from most to fewest.
func shares(made *kadm.Client, group string, expected ...int) {
	check.Until("the shares of "+group, func() bool {
		described, err := made.DescribeGroups(ctx, group)
		check.NoError("describing "+group, err)
		found := described[group]
		if found.State != "Stable" || len(found.Members) != len(expected) {
			return false
		}
		held := 0
		for _, each := range found.Members {
			assigned, _ := each.Assigned.AsConsumer()
			for _, topic := range assigned.Topics {
				held += len(topic.Partitions)
				if len(topic.Partitions) != expected[0] {
					return false
				}
			}
		}
		return held == partitions
	})
}

// groups has members come and go under each way to share, and expects every record once.
func groups(address string) {
	for name, balancer := range map[string]kgo.GroupBalancer{
		"range":       kgo.RangeBalancer(),
		"roundrobin":  kgo.RoundRobinBalancer(),
		"sticky":      kgo.StickyBalancer(),
		"cooperative": kgo.CooperativeStickyBalancer(),
	} {
		group := "franz-" + name
		topic := "franz-group-" + name
		create(address, topic, partitions)
		producer := client(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		made := kadm.NewClient(producer)
		balance := kgo.Balancers(balancer)

		send(producer, topic, 0, 400)
		first := join(address, group, topic, balance)
		expectNumbers(name+" alone", gather(400, first), 0, 400)

		second := join(address, group, topic, balance)
		shares(made, group, 2, 2)
		if name == "cooperative" {
			check.Equal("partitions that moved", 2, first.revoked)
		}
		send(producer, topic, 400, 800)
		expectNumbers(name+" together", gather(400, first, second), 400, 800)

		second.leave()
		shares(made, group, partitions)
		send(producer, topic, 800, 1000)
		expectNumbers(name+" alone again", gather(200, first), 800, 1000)
		first.leave()
		check.Until("an empty group", func() bool {
			described, err := made.DescribeGroups(ctx, group)
			check.NoError("describing", err)
			return described[group].State == "Empty"
		})

		send(producer, topic, 1000, 1100)
		third := join(address, group, topic, balance)
		expectNumbers(name+" resumed", gather(100, third), 1000, 1100)
		third.leave()
		producer.Close()
	}
}

// staticMember comes back under its name, and the group does not rebalance.
func staticMember(address string) {
	topic, group := "franz-static", "franz-static"
	create(address, topic, partitions)
	made := admin(address)
	defer made.Close()
	other := join(address, group, topic, kgo.InstanceID("other"))
	named := func() *member { return join(address, group, topic, kgo.InstanceID("named")) }
	held := named()
	shares(made, group, 2, 2)
	before := other.revoked
	// A static member that closes does not leave.
	held.leave()
	shares(made, group, 2, 2)
	back := named()
	producer := client(address, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send(producer, topic, 0, 100)
	expectNumbers("static", gather(100, other, back), 0, 100)
	check.Equal("partitions that moved", before, other.revoked)

	left, err := made.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs("named"))
	check.NoError("removing a static member", err)
	check.NoError("removing a static member", left.Error())
	shares(made, group, partitions)
	back.client.Close()
	other.leave()
}
