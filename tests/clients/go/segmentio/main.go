// segmentio checks the broker as segmentio's kafka-go sees it: its writers and readers, which speak
// older versions than its client.
package main

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"millrace/tests/clients/check"
)

const partitions = 4

var ctx = context.Background()

func main() {
	check.Main([]check.Scenario{
		{Name: "segmentio produce", Run: produce},
		{Name: "segmentio groups", Run: groups},
		{Name: "segmentio admin", Run: admin},
		{Name: "segmentio crash", Run: crash},
	})
}

// transport keeps metadata for a short while only.
var transport = &kafka.Transport{MetadataTTL: 100 * time.Millisecond}

func client(address string) *kafka.Client {
	return &kafka.Client{
		Addr: kafka.TCP(address), Timeout: 30 * time.Second, Transport: transport,
	}
}

func create(address, topic string) {
	response, err := client(address).CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{
			Topic: topic, NumPartitions: partitions, ReplicationFactor: 1,
		}},
	})
	check.NoError("creating "+topic, err)
	check.NoError("creating "+topic, response.Errors[topic])
}

func writer(address, topic string) *kafka.Writer {
	return &kafka.Writer{
		Addr: kafka.TCP(address), Topic: topic, Transport: transport,
		BatchTimeout: time.Millisecond, RequiredAcks: kafka.RequireAll,
		MaxAttempts: 100, WriteBackoffMax: 200 * time.Millisecond,
		Balancer: kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
			number, _ := strconv.Atoi(string(message.Value))
			return number % partitions
		}),
	}
}

// send writes messages numbered from..to, with everything that a message may have.
func send(writer *kafka.Writer, from, to int) {
	var messages []kafka.Message
	for number := from; number < to; number++ {
		text := strconv.Itoa(number)
		messages = append(messages, kafka.Message{
			Key: []byte("key " + text), Value: []byte(text),
			Headers: []kafka.Header{{Key: "number", Value: []byte(text)}},
			Time:    time.UnixMilli(check.BaseMs + int64(number)),
		})
	}
	check.NoError("writing", writer.WriteMessages(ctx, messages...))
}

// reader reads a partition, or a topic's share in a group if it is given one.
func reader(address, topic, group string, partition int) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{address}, Topic: topic, GroupID: group, Partition: partition,
		StartOffset: kafka.FirstOffset, MaxWait: 100 * time.Millisecond, MinBytes: 1,
		MaxBytes: 1 << 20, HeartbeatInterval: 200 * time.Millisecond,
		JoinGroupBackoff: 200 * time.Millisecond, ReadBackoffMax: 200 * time.Millisecond,
		GroupBalancers: []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
	})
}

// expect wants the messages numbered from..to, those of a partition in order. Readers repeat what
// they had not committed.
func expect(what string, messages []kafka.Message, from, to int) {
	next := map[int]int{}
	for number := from; number < from+partitions; number++ {
		next[number%partitions] = number
	}
	for _, found := range messages {
		number, err := strconv.Atoi(string(found.Value))
		check.NoError(what, err)
		check.Equal(what+": key", "key "+string(found.Value), string(found.Key))
		check.Equal(what+": header", found.Value, found.Headers[0].Value)
		check.Equal(what+": time", check.BaseMs+int64(number), found.Time.UnixMilli())
		check.Equal(what+": offset", int64(number/partitions), found.Offset)
		at := next[found.Partition]
		check.That(number <= at, "%s: %d where %d is next", what, number, at)
		if number == at {
			next[found.Partition] += partitions
		}
	}
	for partition := 0; partition < partitions; partition++ {
		check.Equal(what+": the end", to+(partition-to%partitions+partitions)%partitions, next[partition])
	}
}

// produce sends with every compression and reads it all back.
func produce(address string) {
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		topic := "segmentio-" + strconv.Itoa(int(codec))
		create(address, topic)
		sender := writer(address, topic)
		sender.Compression = codec
		send(sender, 0, 400)
		check.NoError("closing", sender.Close())
		var messages []kafka.Message
		for partition := 0; partition < partitions; partition++ {
			from := reader(address, topic, "", partition)
			for index := 0; index < 100; index++ {
				message, err := from.ReadMessage(ctx)
				check.NoError("reading", err)
				messages = append(messages, message)
			}
			check.NoError("closing", from.Close())
		}
		expect(codec.String(), messages, 0, 400)
	}
	from := reader(address, "segmentio-4", "", 2)
	defer from.Close()
	check.NoError("seeking", from.SetOffsetAt(ctx, time.UnixMilli(check.BaseMs+200)))
	message, err := from.ReadMessage(ctx)
	check.NoError("reading", err)
	check.Equal("by time", "202", string(message.Value))
}

// member reads in a group until it leaves, committing each message as it is read.
type member struct {
	reader   *kafka.Reader
	done     chan struct{}
	mutex    sync.Mutex
	messages []kafka.Message
}

func join(address, topic, group string) *member {
	made := &member{reader: reader(address, topic, group, 0), done: make(chan struct{})}
	go func() {
		defer close(made.done)
		for {
			message, err := made.reader.FetchMessage(ctx)
			if err != nil {
				return
			}
			made.mutex.Lock()
			made.messages = append(made.messages, message)
			made.mutex.Unlock()
			// One that fails amid a rebalance or a crash leads to a repetition.
			_ = made.reader.CommitMessages(ctx, message)
		}
	}()
	return made
}

func (m *member) leave() {
	check.NoError("leaving", m.reader.Close())
	<-m.done
}

func (m *member) read() []kafka.Message {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return append([]kafka.Message(nil), m.messages...)
}

// committed returns what a group has committed, by partition, and its sum.
func committed(address, topic, group string) (map[int]int64, int64) {
	response, err := client(address).OffsetFetch(ctx, &kafka.OffsetFetchRequest{
		GroupID: group, Topics: map[string][]int{topic: {0, 1, 2, 3}},
	})
	check.NoError("committed offsets", err)
	check.NoError("committed offsets", response.Error)
	found, sum := map[int]int64{}, int64(0)
	for _, each := range response.Topics[topic] {
		check.NoError("a committed offset", each.Error)
		found[each.Partition] = each.CommittedOffset
		sum += max(each.CommittedOffset, 0)
	}
	return found, sum
}

// groups has a second member come and the first one go, and a third one resume.
func groups(address string) {
	topic, group := "segmentio-group", "segmentio-group"
	create(address, topic)
	sender := writer(address, topic)
	all := func(sum int64) func() bool {
		return func() bool {
			_, found := committed(address, topic, group)
			return found == sum
		}
	}
	send(sender, 0, 200)
	first := join(address, topic, group)
	check.Until("the first to commit", all(200))
	expect("alone", first.read(), 0, 200)

	second := join(address, topic, group)
	check.Until("two members", func() bool {
		response, err := client(address).DescribeGroups(ctx, &kafka.DescribeGroupsRequest{
			GroupIDs: []string{group},
		})
		check.NoError("describing", err)
		found := response.Groups[0]
		return found.GroupState == "Stable" && len(found.Members) == 2 &&
			len(found.Members[0].MemberAssignments.Topics) == 1 &&
			len(found.Members[1].MemberAssignments.Topics) == 1
	})
	send(sender, 200, 400)
	check.Until("both to commit", all(400))
	check.Equal("the second one's messages", 100, len(second.read()))
	expect("together", append(first.read(), second.read()...), 0, 400)
	first.leave()
	send(sender, 400, 600)
	check.Until("the second to commit", all(600))
	second.leave()

	send(sender, 600, 800)
	third := join(address, topic, group)
	check.Until("the third to commit", all(800))
	expect("resumed", third.read(), 600, 800)
	third.leave()
	check.NoError("closing", sender.Close())
}
