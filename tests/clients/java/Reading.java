import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;

/** Consumers that choose their partitions themselves. */
final class Reading {
    private static final Duration SHORT = Duration.ofMillis(300);
    private static final Duration TICK = Duration.ofMillis(50);
    private static final long PATIENCE_MS = 15_000;

    private Reading() {}

    static void run(Admin admin) throws Exception {
        String topic = Topics.create(admin, "reading", 1, Map.of());
        TopicPartition partition = new TopicPartition(topic, 0);
        fill(topic, 0, 100);
        try (var consumer = Check.consumer(Map.of("max.poll.records", 10))) {
            consumer.assign(List.of(partition));
            bounds(consumer, partition);
            byTime(consumer, partition);
            seeks(consumer, partition);
            pauses(consumer, partition);
            Check.observe("partitions of a topic", () -> consumer.partitionsFor(topic).size());
            Check.observe("partitions of an unknown topic", () ->
                    consumer.partitionsFor(Check.prefix + "nowhere").size());
            Check.observe("the topic is listed", () -> consumer.listTopics().containsKey(topic));
            Check.observe("partitions of an invalid topic", () ->
                    consumer.partitionsFor("no good"));
        }
        resets(partition);
        sizes(admin);
        again(admin);
    }

    /** One batch a record, each a second later than the one before it. */
    private static void fill(String topic, int from, int to) throws Exception {
        try (var producer = Check.producer(Map.of("batch.size", 1))) {
            for (int i = from; i < to; i++) {
                producer.send(new ProducerRecord<>(
                        topic, 0, Producing.STAMP_MS + i * 1000L, null, ("" + i).getBytes()));
            }
        }
    }

    private static void bounds(KafkaConsumer<byte[], byte[]> consumer, TopicPartition partition) {
        Check.observe("beginning", () -> consumer.beginningOffsets(List.of(partition))
                .get(partition));
        Check.observe("end", () -> consumer.endOffsets(List.of(partition)).get(partition));
    }

    private static void byTime(KafkaConsumer<byte[], byte[]> consumer, TopicPartition partition) {
        for (long after : List.of(-5_000L, 0L, 30_000L, 30_001L, 99_000L, 99_001L)) {
            Check.observe("offset of time " + after, () -> {
                OffsetAndTimestamp found = consumer.offsetsForTimes(
                        Map.of(partition, Producing.STAMP_MS + after)).get(partition);
                return found == null ? "none"
                        : found.offset() + " of " + (found.timestamp() - Producing.STAMP_MS)
                                + " in epoch " + found.leaderEpoch();
            });
        }
        Check.observe("offset of a negative time", () ->
                consumer.offsetsForTimes(Map.of(partition, -7L)));
    }

    private static void seeks(KafkaConsumer<byte[], byte[]> consumer, TopicPartition partition) {
        Check.observe("seek to 42", () -> {
            consumer.seek(partition, 42);
            return first(consumer);
        });
        Check.observe("position after a poll of ten", () -> consumer.position(partition));
        Check.observe("lag", () -> consumer.currentLag(partition));
        Check.observe("seek to the beginning", () -> {
            consumer.seekToBeginning(List.of(partition));
            return consumer.position(partition);
        });
        Check.observe("seek to the end", () -> {
            consumer.seekToEnd(List.of(partition));
            return consumer.position(partition) + ", " + consumer.poll(SHORT).count() + " there";
        });
        Check.observe("seek to the last", () -> {
            consumer.seek(partition, 99);
            return first(consumer);
        });
    }

    /** The first record of a poll that brings one. */
    private static String first(KafkaConsumer<byte[], byte[]> consumer) {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        while (System.currentTimeMillis() < end) {
            for (var record : consumer.poll(SHORT)) {
                return record.offset() + " " + new String(record.value()) + " epoch "
                        + record.leaderEpoch();
            }
        }
        return "nothing";
    }

    private static void pauses(KafkaConsumer<byte[], byte[]> consumer, TopicPartition partition) {
        Check.observe("paused", () -> {
            consumer.seek(partition, 10);
            consumer.pause(List.of(partition));
            return consumer.poll(SHORT).count() + " read of " + consumer.paused().size();
        });
        Check.observe("resumed", () -> {
            consumer.resume(List.of(partition));
            return first(consumer);
        });
    }

    private static void resets(TopicPartition partition) {
        for (String reset : List.of("none", "earliest", "latest")) {
            try (var consumer = Check.consumer(Map.of("auto.offset.reset", reset))) {
                consumer.assign(List.of(partition));
                Check.observe("past the end, reset " + reset, () -> {
                    consumer.seek(partition, 1000);
                    long end = System.currentTimeMillis() + 3000;
                    while (System.currentTimeMillis() < end) {
                        for (var record : consumer.poll(TICK)) {
                            return "reads from " + record.offset();
                        }
                        if (consumer.position(partition) != 1000) {
                            end = Math.min(end, System.currentTimeMillis() + 200);
                        }
                    }
                    return consumer.position(partition);
                });
            }
        }
        try (var consumer = Check.consumer(
                Map.of("auto.offset.reset", "none", "group.id", Check.prefix + "uncommitted"))) {
            consumer.assign(List.of(partition));
            Check.observe("nothing committed, reset none", () -> consumer.position(partition));
        }
    }

    /** Limits of a fetch never hold back the first batch. */
    private static void sizes(Admin admin) throws Exception {
        String topic = Topics.create(admin, "sizes", 3, Map.of());
        AtomicInteger sent = new AtomicInteger();
        try (var producer = Check.producer(Map.of("linger.ms", 50))) {
            for (int i = 0; i < 30; i++) {
                producer.send(new ProducerRecord<>(topic, i % 3, null, new byte[30_000]),
                        (metadata, failure) -> sent.addAndGet(failure == null ? 1 : 0));
            }
        }
        Check.say("batches sent", sent);
        Map<String, Object> narrow = Map.of("fetch.max.bytes", 1000,
                "max.partition.fetch.bytes", 1000, "fetch.min.bytes", 100_000,
                "fetch.max.wait.ms", 20);
        Check.observe("limits below a batch", () -> all(topic, 3, narrow).size());
    }

    /** A topic that is deleted and made again is another one, for those that knew the first. */
    private static void again(Admin admin) throws Exception {
        String topic = Topics.create(admin, "again", 1, Map.of());
        try (var producer = Check.producer(Map.of())) {
            Producing.send(producer, topic, 1);
            Producing.send(producer, topic, 2);
            Uuid first = idOf(admin, topic);
            admin.deleteTopics(List.of(topic)).all().get();
            Check.observe("a deleted topic is gone", () ->
                    admin.describeTopics(List.of(topic)).allTopicNames().get());
            recreate(admin, topic, first);
            Check.observe("an old producer sends to the new topic", () ->
                    Producing.send(producer, topic, 3));
        }
        Check.observe("what is in it", () -> {
            List<String> found = new ArrayList<>();
            all(topic, 1).forEach(record -> found.add("" + record.value().length));
            return found;
        });
    }

    /**
     * Kafka goes on deleting after its answer, and refuses the name until then. A try whose answer
     * was lost may have come through: the topic is there when it has another id.
     */
    private static void recreate(Admin admin, String topic, Uuid first) throws Exception {
        for (int i = 0; ; i++) {
            try {
                admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
                break;
            } catch (ExecutionException failure) {
                if (i == 50) {
                    throw failure;
                }
                Thread.sleep(100);
            }
            try {
                if (!idOf(admin, topic).equals(first)) {
                    break;
                }
            } catch (ExecutionException gone) {
                continue;
            }
        }
        Topics.awaitLed(admin, topic, 1);
    }

    private static Uuid idOf(Admin admin, String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).topicId();
    }

    static List<ConsumerRecord<byte[], byte[]>> all(String topic, int partitions) {
        return all(topic, partitions, Map.of());
    }

    /** Everything up to the end, in the order in which it came. */
    static List<ConsumerRecord<byte[], byte[]>> all(
            String topic, int partitions, Map<String, ?> overrides) {
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        try (var consumer = Check.consumer(overrides)) {
            Collection<TopicPartition> assigned = new ArrayList<>();
            for (int i = 0; i < partitions; i++) {
                assigned.add(new TopicPartition(topic, i));
            }
            consumer.assign(assigned);
            consumer.seekToBeginning(assigned);
            Map<TopicPartition, Long> ends = consumer.endOffsets(assigned);
            long end = System.currentTimeMillis() + PATIENCE_MS;
            Set<Integer> open = new TreeSet<>();
            do {
                consumer.poll(SHORT).forEach(found::add);
                open.clear();
                ends.forEach((partition, last) -> {
                    if (consumer.position(partition) < last) {
                        open.add(partition.partition());
                    }
                });
            } while (!open.isEmpty() && System.currentTimeMillis() < end);
        }
        return found;
    }

    /** The values of a topic's only partition; waits for that many, then looks for no more. */
    static List<String> values(String topic, int count) {
        List<String> values = new ArrayList<>();
        try (var consumer = Check.consumer(Map.of())) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            long end = System.currentTimeMillis() + PATIENCE_MS;
            while (values.size() < count && System.currentTimeMillis() < end) {
                consumer.poll(SHORT).forEach(record -> values.add(new String(record.value())));
            }
        }
        return values;
    }
}
