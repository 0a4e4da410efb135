package main

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"millrace/tests/clients/check"
)

// member consumes in a group until it leaves, and commits after each message.
type member struct {
	group    sarama.ConsumerGroup
	cancel   context.CancelFunc
	done     chan struct{}
	mutex    sync.Mutex
	messages []*sarama.ConsumerMessage
}

func (c client) join(group, topic string, balance sarama.BalanceStrategy) *member {
	config := c.config()
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{balance}
	config.Consumer.Offsets.AutoCommit.Interval = 20 * time.Millisecond
	joined, err := sarama.NewConsumerGroup([]string{c.address}, group, config)
	check.NoError("making a member", err)
	live, cancel := context.WithCancel(context.Background())
	made := &member{group: joined, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(made.done)
		for live.Err() == nil {
			// It ends with each rebalance, and with an error while the broker is away.
			if err := joined.Consume(live, []string{topic}, made); err != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	return made
}

func (m *member) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(
	session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim,
) error {
	for {
		select {
		case found, more := <-claim.Messages():
			if !more {
				return nil
			}
			m.mutex.Lock()
			m.messages = append(m.messages, found)
			m.mutex.Unlock()
			session.MarkMessage(found, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *member) taken() []*sarama.ConsumerMessage {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	messages := m.messages
	m.messages = nil
	return messages
}

func (m *member) leave() {
	m.cancel()
	<-m.done
	check.NoError("leaving", m.group.Close())
}

// gather takes what members read until it is that many messages.
func gather(count int, members ...*member) []*sarama.ConsumerMessage {
	var messages []*sarama.ConsumerMessage
	check.Until("messages of a group", func() bool {
		for _, each := range members {
			messages = append(messages, each.taken()...)
		}
		return len(messages) >= count
	})
	return messages
}

// shares waits until a stable group has that many members with equal shares.
func shares(admin sarama.ClusterAdmin, group, topic string, members int) {
	check.Until("the shares of "+group, func() bool {
		described, err := admin.DescribeConsumerGroups([]string{group})
		check.NoError("describing "+group, err)
		found := described[0]
		if found.State != "Stable" || len(found.Members) != members {
			return false
		}
		for _, each := range found.Members {
			assigned, err := each.GetMemberAssignment()
			check.NoError("an assignment", err)
			if assigned == nil || len(assigned.Topics[topic]) != partitions/members {
				return false
			}
		}
		return true
	})
}

// groups has members come and go under each way to share, which no release changes, and expects every message once.
func (c client) groups() {
	admin := c.clusterAdmin()
	defer admin.Close()
	ways := []func() sarama.BalanceStrategy{
		sarama.NewBalanceStrategyRange, sarama.NewBalanceStrategyRoundRobin,
	}
	if c.version == sarama.MaxVersion {
		ways = []func() sarama.BalanceStrategy{sarama.NewBalanceStrategySticky}
	}
	for _, balance := range ways {
		name := balance().Name()
		group, topic := c.name("group-"+name), c.name("group-"+name)
		c.create(topic)
		producer := c.producer(func(*sarama.Config) {})
		send(producer, topic, 0, 400)
		first := c.join(group, topic, balance())
		expect(name+" alone", gather(400, first), 0, 400)
		c.awaitCommitted(group, topic, 100)

		second := c.join(group, topic, balance())
		shares(admin, group, topic, 2)
		send(producer, topic, 400, 800)
		expect(name+" together", gather(400, first, second), 400, 800)
		c.awaitCommitted(group, topic, 200)

		first.leave()
		shares(admin, group, topic, 1)
		send(producer, topic, 800, 1000)
		expect(name+" alone again", gather(200, second), 800, 1000)
		second.leave()

		send(producer, topic, 1000, 1100)
		third := c.join(group, topic, balance())
		expect(name+" resumed", gather(100, third), 1000, 1100)
		third.leave()
		check.NoError("closing", producer.Close())
	}
}

// committed returns what a group has committed, by partition.
func (c client) committed(group, topic string) map[int32]int64 {
	admin := c.clusterAdmin()
	defer admin.Close()
	asked := map[string][]int32{topic: {0, 1, 2, 3}}
	response, err := admin.ListConsumerGroupOffsets(group, asked)
	check.NoError("committed offsets", err)
	found := map[int32]int64{}
	for partition := int32(0); partition < partitions; partition++ {
		found[partition] = response.GetBlock(topic, partition).Offset
	}
	return found
}

func (c client) awaitCommitted(group, topic string, offset int64) {
	check.Until("commits", func() bool {
		for _, found := range c.committed(group, topic) {
			if found != offset {
				return false
			}
		}
		return true
	})
}
