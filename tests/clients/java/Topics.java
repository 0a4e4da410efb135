import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreatePartitionsOptions;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.TopicExistsException;

/** Topics, partitions and settings, as the admin client makes and describes them. */
final class Topics {
    private Topics() {}

    static void run(Admin admin) throws Exception {
        cluster(admin);
        creations(admin);
        descriptions(admin);
        partitions(admin);
        settings(admin);
        changes(admin);
        deletions(admin);
    }

    /** A topic with the run's prefix, led. Gives its whole name. */
    static String create(Admin admin, String name, int partitions, Map<String, String> settings)
            throws Exception {
        String topic = Check.prefix + name;
        try {
            admin.createTopics(List.of(
                    new NewTopic(topic, partitions, (short) 1).configs(settings))).all().get();
        } catch (ExecutionException failure) {
            // The client asks again by itself when a connection goes before the answer, and hears
            // that the topic exists: nobody else makes one of this name.
            if (!(failure.getCause() instanceof TopicExistsException)) {
                throw failure;
            }
        }
        awaitLed(admin, topic, partitions);
        return topic;
    }

    /** Kafka answers before the partitions of a new topic are led. */
    static void awaitLed(Admin admin, String topic, int partitions) throws Exception {
        Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
        for (int i = 0; i < partitions; i++) {
            ends.put(new TopicPartition(topic, i), OffsetSpec.latest());
        }
        for (int i = 0; ; i++) {
            try {
                admin.listOffsets(ends).all().get();
                return;
            } catch (ExecutionException notYet) {
                if (i == 50) {
                    throw notYet;
                }
                Thread.sleep(100);
            }
        }
    }

    private static void cluster(Admin admin) throws Exception {
        var cluster = admin.describeCluster();
        int controller = cluster.controller().get().id();
        boolean known = cluster.nodes().get().stream().anyMatch(node -> node.id() == controller);
        Check.say("the controller is a node", known);
        Check.say("the cluster has an id", !cluster.clusterId().get().isEmpty());
        Check.say("operations on the cluster", cluster.authorizedOperations().get());
    }

    private static void creations(Admin admin) {
        Check.observe("create", () -> {
            var made = admin.createTopics(List.of(topic("made", 3, 1)));
            String name = Check.prefix + "made";
            return made.numPartitions(name).get() + " partitions, "
                    + made.replicationFactor(name).get() + " replica, id given: "
                    + !made.topicId(name).get().equals(Uuid.ZERO_UUID) + ", retention "
                    + made.config(name).get().get("retention.ms").value();
        });
        Check.observe("create with the broker's defaults", () -> {
            String name = Check.prefix + "defaults";
            var made = admin.createTopics(List.of(
                    new NewTopic(name, Optional.empty(), Optional.empty())));
            return made.numPartitions(name).get() + " partitions";
        });
        refuse(admin, "create what is there", topic("made", 3, 1));
        refuse(admin, "create with three replicas", topic("three", 1, 3));
        refuse(admin, "create with no replica", topic("three", 1, 0));
        refuse(admin, "create with no partition", topic("none", 0, 1));
        refuse(admin, "create with -2 partitions", topic("none", -2, 1));
        refuse(admin, "create an invalid name", new NewTopic("no good", 1, (short) 1));
        refuse(admin, "create a dot", new NewTopic(".", 1, (short) 1));
        refuse(admin, "create no name", new NewTopic("", 1, (short) 1));
        refuse(admin, "create a name of 250", new NewTopic("x".repeat(250), 1, (short) 1));
        refuse(admin, "create with an unknown setting",
                topic("set", 1, 1).configs(Map.of("no.such", "1")));
        refuse(admin, "create with a wrong value",
                topic("set", 1, 1).configs(Map.of("retention.ms", "soon")));
        refuse(admin, "create with a value out of range",
                topic("set", 1, 1).configs(Map.of("retention.ms", "-2")));
        refuse(admin, "create what collides with nothing", topic("col.lide", 1, 1));
        refuse(admin, "create a collision", topic("col_lide", 1, 1));
        refuse(admin, "create compacted",
                topic("squeezed", 1, 1).configs(Map.of("cleanup.policy", "compact")));
        refuse(admin, "create on a broker that is not there",
                new NewTopic(Check.prefix + "placed", Map.of(0, List.of(77))));
        refuse(admin, "create with a gap in the partitions",
                new NewTopic(Check.prefix + "placed", Map.of(1, List.of(1))));
        Check.observe("create, only to validate", () -> {
            admin.createTopics(List.of(topic("tried", 1, 1)),
                    new CreateTopicsOptions().validateOnly(true)).all().get();
            return admin.listTopics().names().get().contains(Check.prefix + "tried");
        });
    }

    private static NewTopic topic(String name, int partitions, int replicas) {
        return new NewTopic(Check.prefix + name, partitions, (short) replicas);
    }

    private static void refuse(Admin admin, String what, NewTopic... topics) {
        Check.observe(what, () -> {
            admin.createTopics(List.of(topics)).all().get();
            return "done";
        });
    }

    private static void descriptions(Admin admin) {
        String name = Check.prefix + "made";
        Check.observe("describe", () -> {
            TopicDescription told = admin.describeTopics(List.of(name)).allTopicNames().get()
                    .get(name);
            List<String> partitions = new ArrayList<>();
            told.partitions().forEach(partition -> partitions.add(partition.partition() + ":"
                    + partition.replicas().size() + ":" + partition.isr().size() + ":"
                    + partition.isr().contains(partition.leader())));
            return partitions + " internal " + told.isInternal() + " operations "
                    + told.authorizedOperations();
        });
        Check.observe("describe by id", () -> {
            Uuid id = admin.describeTopics(List.of(name)).allTopicNames().get().get(name).topicId();
            return admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds()
                    .get().get(id).name();
        });
        Check.observe("describe an unknown topic", () ->
                admin.describeTopics(List.of(Check.prefix + "nowhere")).allTopicNames().get());
        Check.observe("describe an invalid topic", () ->
                admin.describeTopics(List.of("no good")).allTopicNames().get());
        Check.observe("describe an unknown id", () -> admin.describeTopics(
                TopicCollection.ofTopicIds(List.of(new Uuid(7, 7)))).allTopicIds().get());
        Check.observe("listed", () -> admin.listTopics().names().get().contains(name));
    }

    private static void partitions(Admin admin) {
        grow(admin, "grow to 5", "made", NewPartitions.increaseTo(5));
        grow(admin, "grow to 5 again", "made", NewPartitions.increaseTo(5));
        grow(admin, "grow to fewer", "made", NewPartitions.increaseTo(2));
        grow(admin, "grow to none", "made", NewPartitions.increaseTo(0));
        grow(admin, "grow an unknown topic", "nowhere", NewPartitions.increaseTo(2));
        grow(admin, "grow on a broker that is not there", "made",
                NewPartitions.increaseTo(6, List.of(List.of(77))));
        grow(admin, "grow with too few places", "made",
                NewPartitions.increaseTo(8, List.of(List.of(1))));
        Check.observe("grow, only to validate", () -> {
            admin.createPartitions(Map.of(Check.prefix + "made", NewPartitions.increaseTo(9)),
                    new CreatePartitionsOptions().validateOnly(true)).all().get();
            return partitionsOf(admin, "made");
        });
    }

    private static void grow(Admin admin, String what, String topic, NewPartitions wanted) {
        Check.observe(what, () -> {
            admin.createPartitions(Map.of(Check.prefix + topic, wanted)).all().get();
            return partitionsOf(admin, topic);
        });
    }

    private static int partitionsOf(Admin admin, String topic) throws Exception {
        String name = Check.prefix + topic;
        return admin.describeTopics(List.of(name)).allTopicNames().get().get(name)
                .partitions().size();
    }

    private static void settings(Admin admin) {
        Check.observe("settings of a topic", () -> {
            Map<String, String> told = new TreeMap<>();
            for (ConfigEntry entry : describe(admin, resource("made")).entries()) {
                told.put(entry.name(), entry.value() + " " + entry.source() + " "
                        + (entry.isReadOnly() ? "read only " : "")
                        + (entry.isSensitive() ? "sensitive " : "") + entry.type());
            }
            told.forEach((name, value) -> Check.say("setting " + name, value));
            return told.size();
        });
        Check.observe("settings of an unknown topic", () -> describe(admin, resource("nowhere")));
        Check.observe("settings of an invalid topic", () ->
                describe(admin, new ConfigResource(ConfigResource.Type.TOPIC, "no good")));
        Check.observe("settings of a broker that is not there", () ->
                describe(admin, new ConfigResource(ConfigResource.Type.BROKER, "77")));
        Check.observe("settings of a broker that is no number", () ->
                describe(admin, new ConfigResource(ConfigResource.Type.BROKER, "x")));
        Check.observe("settings of a broker", () -> {
            Config told = describe(admin, new ConfigResource(ConfigResource.Type.BROKER, "1"));
            return told.get("log.retention.ms") != null || told.get("message.max.bytes") != null;
        });
        Check.observe("settings of all brokers", () ->
                describe(admin, new ConfigResource(ConfigResource.Type.BROKER, "")).entries()
                        .size());
        Check.observe("documentation", () -> {
            ConfigResource made = resource("made");
            Config told = admin.describeConfigs(List.of(made), new DescribeConfigsOptions()
                    .includeSynonyms(true).includeDocumentation(true)).all().get().get(made);
            return told.get("retention.ms").documentation() != null;
        });
    }

    private static ConfigResource resource(String topic) {
        return new ConfigResource(ConfigResource.Type.TOPIC, Check.prefix + topic);
    }

    private static Config describe(Admin admin, ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private static void changes(Admin admin) {
        change(admin, "set", "made", "retention.ms", "86400000", OpType.SET);
        change(admin, "set again", "made", "retention.ms", "86400000", OpType.SET);
        change(admin, "unset", "made", "retention.ms", "", OpType.DELETE);
        change(admin, "unset what is not set", "made", "segment.bytes", "", OpType.DELETE);
        change(admin, "append a policy", "made", "cleanup.policy", "compact", OpType.APPEND);
        change(admin, "subtract a policy", "made", "cleanup.policy", "compact", OpType.SUBTRACT);
        change(admin, "append to what is no list", "made", "retention.ms", "1", OpType.APPEND);
        change(admin, "set an unknown setting", "made", "no.such", "1", OpType.SET);
        change(admin, "set a wrong value", "made", "retention.ms", "soon", OpType.SET);
        change(admin, "set of an unknown topic", "nowhere", "retention.ms", "1", OpType.SET);
        change(admin, "set max.message.bytes", "made", "max.message.bytes", "-1", OpType.SET);
        change(admin, "set min.insync.replicas", "made", "min.insync.replicas", "2", OpType.SET);
        change(admin, "set compression.type", "made", "compression.type", "zstd", OpType.SET);
        change(admin, "set a wrong compression", "made", "compression.type", "rar", OpType.SET);
        Check.observe("one setting twice", () -> {
            var set = new AlterConfigOp(new ConfigEntry("retention.ms", "5"), OpType.SET);
            var unset = new AlterConfigOp(new ConfigEntry("retention.ms", "6"), OpType.SET);
            return alter(admin, resource("made"), List.of(set, unset));
        });
        Check.observe("set of a broker", () -> alter(admin,
                new ConfigResource(ConfigResource.Type.BROKER, "1"),
                List.of(new AlterConfigOp(
                        new ConfigEntry("log.cleaner.threads", "2"), OpType.SET))));
    }

    private static void change(
            Admin admin, String what, String topic, String name, String value, OpType operation) {
        Check.observe(what, () -> {
            alter(admin, resource(topic),
                    List.of(new AlterConfigOp(new ConfigEntry(name, value), operation)));
            ConfigEntry now = describe(admin, resource(topic)).get(name);
            return now == null ? "not told" : now.value() + " " + now.source();
        });
    }

    private static String alter(
            Admin admin, ConfigResource resource, Collection<AlterConfigOp> operations)
            throws Exception {
        admin.incrementalAlterConfigs(Map.of(resource, operations)).all().get();
        return "done";
    }

    private static void deletions(Admin admin) {
        String name = Check.prefix + "made";
        Check.observe("delete by id", () -> {
            Uuid id = admin.describeTopics(List.of(name)).allTopicNames().get().get(name).topicId();
            admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get();
            return untilGone(admin, name);
        });
        delete(admin, "delete by name", Check.prefix + "defaults");
        delete(admin, "delete what is gone", name);
        delete(admin, "delete an invalid name", "no good");
        Check.observe("delete an unknown id", () -> admin.deleteTopics(
                TopicCollection.ofTopicIds(List.of(new Uuid(7, 7)))).all().get());
    }

    private static void delete(Admin admin, String what, String topic) {
        Check.observe(what, () -> {
            admin.deleteTopics(List.of(topic)).all().get();
            return untilGone(admin, topic);
        });
    }

    /** Kafka goes on deleting after its answer. */
    private static String untilGone(Admin admin, String topic) throws Exception {
        for (int i = 0; i < 50; i++) {
            if (!admin.listTopics().names().get().contains(topic)) {
                return "gone";
            }
            Thread.sleep(100);
        }
        return "still there";
    }
}
