import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeaders;

/** Producers: what they are told, and what is read back of it. */
final class Producing {
    private static final long HOUR_MS = 3_600_000;
    /** A time that is on no record by chance. */
    static final long STAMP_MS = 1_700_000_000_000L;

    private Producing() {}

    static void run(Admin admin) throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            Check.observe("produce " + codec, () -> roundTrip(admin, codec));
        }
        for (String acks : List.of("0", "1", "all")) {
            Check.observe("acks " + acks, () -> acks(admin, acks));
        }
        Check.observe("small batches, 5 in flight", () -> smallBatches(admin));
        Check.observeByMajor("batches too large are split", () -> splitBatches(admin));
        oddRecords(admin);
        refusals(admin);
        times(admin);
        transactions();
    }

    private static String roundTrip(Admin admin, String codec) throws Exception {
        String topic = Topics.create(admin, "codec-" + codec, 2, Map.of());
        AtomicInteger calledBack = new AtomicInteger();
        AtomicInteger outOfOrder = new AtomicInteger();
        List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
        try (var producer = Check.producer(Map.of("compression.type", codec))) {
            for (int i = 0; i < 2000; i++) {
                var record = numbered(topic, i);
                int position = i / 2;
                sent.add(record);
                producer.send(record, (metadata, failure) -> {
                    if (failure != null || metadata.offset() != position) {
                        outOfOrder.incrementAndGet();
                    }
                    calledBack.incrementAndGet();
                });
            }
            producer.flush();
        }
        List<ConsumerRecord<byte[], byte[]>> read = Reading.all(topic, 2);
        return calledBack + " called back, " + outOfOrder + " out of order, "
                + read.size() + " read, " + differing(sent, read) + " differ";
    }

    private static ProducerRecord<byte[], byte[]> numbered(String topic, int i) {
        byte[] value = ("value " + i + " ").repeat(1 + i % 40).getBytes();
        byte[] key = i % 7 == 0 ? null : ("key " + i).getBytes();
        var record = new ProducerRecord<>(topic, i % 2, STAMP_MS + i, key, value);
        record.headers().add("number", ByteBuffer.allocate(4).putInt(i).array());
        if (i % 3 == 0) {
            record.headers().add("number", null).add("", new byte[0]);
        }
        return record;
    }

    /** Records of a partition that are not what was sent to it, in that order. */
    private static int differing(
            List<ProducerRecord<byte[], byte[]>> sent, List<ConsumerRecord<byte[], byte[]>> read) {
        int differ = 0;
        int[] next = new int[2];
        for (var record : read) {
            int i = next[record.partition()]++ * 2 + record.partition();
            var origin = sent.get(i);
            boolean same = record.offset() == i / 2
                    && record.timestamp() == origin.timestamp()
                    && Arrays.equals(record.key(), origin.key())
                    && Arrays.equals(record.value(), origin.value())
                    && new RecordHeaders(record.headers()).equals(origin.headers());
            differ += same ? 0 : 1;
        }
        return differ;
    }

    private static String acks(Admin admin, String acks) throws Exception {
        String topic = Topics.create(admin, "acks-" + acks, 1, Map.of());
        boolean idempotent = acks.equals("all");
        long offset;
        try (var producer = Check.producer(
                Map.of("acks", acks, "enable.idempotence", idempotent))) {
            producer.send(new ProducerRecord<>(topic, "a".getBytes())).get();
            offset = producer.send(new ProducerRecord<>(topic, "b".getBytes())).get().offset();
        }
        return "offset " + offset + ", read " + Reading.values(topic, 2);
    }

    private static String smallBatches(Admin admin) throws Exception {
        String topic = Topics.create(admin, "small", 1, Map.of());
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (var producer = Check.producer(Map.of("batch.size", 1, "linger.ms", 0))) {
            for (int i = 0; i < 500; i++) {
                answers.add(producer.send(new ProducerRecord<>(topic, ("" + i).getBytes())));
            }
        }
        int wrong = 0;
        for (int i = 0; i < answers.size(); i++) {
            wrong += answers.get(i).get().offset() == i ? 0 : 1;
        }
        return wrong + " offsets wrong, " + inOrder(topic, 500);
    }

    /** The broker's MESSAGE_TOO_LARGE has the client send a batch again as several. */
    private static String splitBatches(Admin admin) throws Exception {
        String topic = Topics.create(admin, "split", 1, Map.of("max.message.bytes", "2000"));
        try (var producer = Check.producer(Map.of("batch.size", 100_000, "linger.ms", 500))) {
            for (int i = 0; i < 500; i++) {
                producer.send(new ProducerRecord<>(topic, ("" + i).getBytes()));
            }
        }
        return inOrder(topic, 500);
    }

    private static String inOrder(String topic, int count) {
        int wrong = 0;
        List<String> values = Reading.values(topic, count);
        for (int i = 0; i < values.size(); i++) {
            wrong += values.get(i).equals("" + i) ? 0 : 1;
        }
        return values.size() + " read, " + wrong + " out of order";
    }

    private static void oddRecords(Admin admin) throws Exception {
        String topic = Topics.create(admin, "odd", 1, Map.of());
        try (var producer = Check.producer(Map.of())) {
            producer.send(new ProducerRecord<>(topic, null, (byte[]) null)).get();
            producer.send(new ProducerRecord<>(topic, new byte[0], new byte[0])).get();
            var metadata = producer.send(
                    new ProducerRecord<>(topic, "k".getBytes(), new byte[900_000])).get();
            Check.say("metadata", metadata + " key " + metadata.serializedKeySize()
                    + " value " + metadata.serializedValueSize());
        }
        for (var record : Reading.all(topic, 1)) {
            Check.say("odd record " + record.offset(),
                    "key " + size(record.key()) + " value " + size(record.value()));
        }
    }

    private static String size(byte[] bytes) {
        return bytes == null ? "null" : bytes.length + " bytes";
    }

    private static void refusals(Admin admin) throws Exception {
        String narrow = Topics.create(admin, "narrow", 1, Map.of("max.message.bytes", "2000"));
        String keyed = Check.prefix + "compacted";
        admin.createTopics(List.of(new NewTopic(keyed, 1, (short) 1)
                .configs(Map.of("cleanup.policy", "compact"))));
        try (var producer = Check.producer(Map.of("max.block.ms", 1500))) {
            Check.observe("send too large for the broker", () -> send(producer, narrow, 5000));
            Check.observe("send after that", () -> send(producer, narrow, 100));
            Check.observe("send too large for the client", () -> send(producer, narrow, 2_000_000));
            Check.observe("send to an invalid name", () -> send(producer, "no good", 1));
            Check.observe("send to a partition that is not there", () -> producer.send(
                    new ProducerRecord<>(narrow, 7, null, new byte[1])).get().offset());
            Check.observe("send to a new topic", () ->
                    send(producer, Check.prefix + "asked-for", 1));
            Check.observe("send without a key to a compacted topic", () ->
                    send(producer, keyed, 1));
        }
    }

    static long send(KafkaProducer<byte[], byte[]> producer, String topic, int bytes)
            throws Exception {
        return producer.send(new ProducerRecord<>(topic, new byte[bytes])).get().offset();
    }

    private static void times(Admin admin) throws Exception {
        long now = System.currentTimeMillis();
        String plain = Topics.create(admin, "times", 1, Map.of());
        String stamped = Topics.create(
                admin, "stamped", 1, Map.of("message.timestamp.type", "LogAppendTime"));
        String strict = Topics.create(
                admin, "strict", 1, Map.of("message.timestamp.before.max.ms", "60000"));
        try (var producer = Check.producer(Map.of())) {
            Check.observe("time of the producer is kept", () ->
                    sendAt(producer, plain, STAMP_MS) == STAMP_MS);
            Check.observe("time of the broker replaces it", () ->
                    sendAt(producer, stamped, STAMP_MS) >= now);
            Check.observe("type of time", () ->
                    Reading.all(stamped, 1).get(0).timestampType());
            Check.observe("send of two hours ahead", () ->
                    sendAt(producer, plain, now + 2 * HOUR_MS) > now);
            Check.observe("send of an hour ago where a minute is allowed", () ->
                    sendAt(producer, strict, now - HOUR_MS) > 0);
            Check.observe("send of now where a minute is allowed", () ->
                    sendAt(producer, strict, now) == now);
        }
    }

    private static long sendAt(KafkaProducer<byte[], byte[]> producer, String topic, long time)
            throws Exception {
        return producer.send(new ProducerRecord<>(topic, 0, time, null, new byte[1]))
                .get().timestamp();
    }

    private static void transactions() {
        try (var producer = Check.producer(Map.of("transactional.id", Check.prefix + "tx"))) {
            Check.observe("transactions", () -> {
                producer.initTransactions();
                return "served";
            });
        }
        Check.observe("partition of an unknown topic is asked for by a consumer", () -> {
            try (var consumer = Check.consumer(Map.of())) {
                return consumer.endOffsets(
                        List.of(new TopicPartition(Check.prefix + "nowhere", 0)),
                        java.time.Duration.ofSeconds(2));
            }
        });
    }
}
