// sarama checks the broker as IBM's sarama sees it, as the oldest release that it takes the broker
// for by itself and as the newest.
package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"millrace/tests/clients/check"
)

const partitions = 4

func main() {
	var scenarios []check.Scenario
	for _, version := range []sarama.KafkaVersion{sarama.DefaultVersion, sarama.MaxVersion} {
		for name, run := range map[string]func(client){
			"produce": client.produce,
			"groups":  client.groups,
			"admin":   client.admin,
			"offsets": client.offsets,
		} {
			scenarios = append(scenarios, check.Scenario{
				Name: fmt.Sprintf("sarama %s as %s", name, version),
				Run:  func(address string) { run(client{address, version}) },
			})
		}
	}
	check.Main(append(scenarios, check.Scenario{Name: "sarama crash", Run: func(address string) {
		client{address, sarama.DefaultVersion}.crash()
	}}))
}

// client is how to reach the broker, and as which release.
type client struct {
	address string
	version sarama.KafkaVersion
}

// name makes names of topics and groups that differ by release.
func (c client) name(of string) string {
	return fmt.Sprintf("sarama-%s-%s", of, c.version)
}

func (c client) config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = c.version
	config.Producer.Return.Successes = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Consumer.MaxWaitTime = 10 * time.Millisecond
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
	config.Consumer.Group.Rebalance.Retry.Backoff = 100 * time.Millisecond
	return config
}

func (c client) clusterAdmin() sarama.ClusterAdmin {
	admin, err := sarama.NewClusterAdmin([]string{c.address}, c.config())
	check.NoError("making an admin client", err)
	return admin
}

func (c client) create(topic string) {
	admin := c.clusterAdmin()
	defer admin.Close()
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}
	check.NoError("creating "+topic, admin.CreateTopic(topic, detail, false))
}

func (c client) producer(change func(*sarama.Config)) sarama.SyncProducer {
	config := c.config()
	change(config)
	producer, err := sarama.NewSyncProducer([]string{c.address}, config)
	check.NoError("making a producer", err)
	return producer
}

// message has everything that a message may have, told apart by its number.
func message(topic string, number int) *sarama.ProducerMessage {
	text := strconv.Itoa(number)
	return &sarama.ProducerMessage{
		Topic:     topic,
		Partition: int32(number % partitions),
		Key:       sarama.StringEncoder("key " + text),
		Value:     sarama.StringEncoder(text),
		Headers:   []sarama.RecordHeader{{Key: []byte("number"), Value: []byte(text)}},
		Timestamp: time.UnixMilli(check.BaseMs + int64(number)),
	}
}

// send produces messages numbered from..to.
func send(producer sarama.SyncProducer, topic string, from, to int) []*sarama.ProducerMessage {
	var messages []*sarama.ProducerMessage
	for number := from; number < to; number++ {
		messages = append(messages, message(topic, number))
	}
	check.NoError("producing to "+topic, producer.SendMessages(messages))
	return messages
}

// expect wants the messages numbered from..to, each once, those of a partition in order.
func expect(what string, messages []*sarama.ConsumerMessage, from, to int) {
	check.Equal(what+": messages", to-from, len(messages))
	next := map[int32]int{}
	for number := from; number < from+partitions; number++ {
		next[int32(number%partitions)] = number
	}
	for _, found := range messages {
		check.Equal(what, strconv.Itoa(next[found.Partition]), string(found.Value))
		next[found.Partition] += partitions
	}
}
