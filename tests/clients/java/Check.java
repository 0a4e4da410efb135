import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What a broker answers to Kafka's Java clients, one observation a line: {@code name: value}.
 * Nothing here judges; the script compares the lines with those that are expected, and with those
 * of another broker. Values hold nothing that two runs may tell differently.
 *
 * <p>{@code java Check HOST:PORT PREFIX MAJOR}: every topic and group has the prefix in its name.
 */
public final class Check {
    /** With CHECK_TRACE set, standard error tells how long each took and where it failed. */
    private static final boolean TRACE = System.getenv("CHECK_TRACE") != null;

    static String bootstrap;
    /** Before every topic's and group's name: several runs share a broker. */
    static String prefix;
    /** Major version of the clients. */
    static String major;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        prefix = arguments[1] + "-";
        major = arguments[2];
        try (Admin admin = admin()) {
            Topics.run(admin);
            Producing.run(admin);
            Reading.run(admin);
            Groups.run(admin);
            GroupAdmin.run(admin);
            Unserved.run(admin);
        }
        System.out.flush();
        System.exit(0);
    }

    /** What may fail and does, or gives a value: either is the observation. */
    static void observe(String name, Callable<?> action) {
        Object value;
        long began = System.nanoTime();
        try {
            value = action.call();
        } catch (Throwable thrown) {
            value = nameOf(thrown);
        }
        say(name, value);
        if (TRACE) {
            System.err.println((System.nanoTime() - began) / 1_000_000 + " ms: " + name);
        }
    }

    /** An observation that only one major version of the client can make, or makes so. */
    static void observeByMajor(String name, Callable<?> action) {
        observe("[" + major + "] " + name, action);
    }

    static void say(String name, Object value) {
        System.out.println((name + ": " + value).replace(prefix, ""));
    }

    /** The exception that a client reports, without the wrapping of futures. */
    static String nameOf(Throwable thrown) {
        while ((thrown instanceof ExecutionException || thrown instanceof CompletionException)
                && thrown.getCause() != null) {
            thrown = thrown.getCause();
        }
        if (TRACE) {
            thrown.printStackTrace();
        }
        return thrown.getClass().getSimpleName();
    }

    static Admin admin() {
        return Admin.create(properties(Map.of()));
    }

    static KafkaProducer<byte[], byte[]> producer(Map<String, ?> overrides) {
        Map<String, Object> all = new HashMap<>();
        all.put("delivery.timeout.ms", 15000);
        all.put("max.block.ms", 5000);
        all.putAll(overrides);
        return new KafkaProducer<>(
                properties(all), new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(Map<String, ?> overrides) {
        Map<String, Object> all = new HashMap<>();
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", false);
        all.put("isolation.level", "read_committed");
        all.put("allow.auto.create.topics", false);
        all.put("heartbeat.interval.ms", 200);
        all.putAll(overrides);
        return new KafkaConsumer<>(
                properties(all), new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static Properties properties(Map<String, ?> overrides) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("request.timeout.ms", 8000);
        properties.put("default.api.timeout.ms", 8000);
        properties.put("enable.metrics.push", "false");
        properties.putAll(overrides);
        return properties;
    }
}
