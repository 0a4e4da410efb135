import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/** Groups and offsets, as the admin client lists and changes them. */
final class GroupAdmin {
    private GroupAdmin() {}

    static void run(Admin admin) throws Exception {
        String topic = Topics.create(admin, "administered", 2, Map.of());
        TopicPartition partition = new TopicPartition(topic, 0);
        String group = Check.prefix + "administered";
        try (Groups.Member member = new Groups.Member("administered", topic,
                Map.of("group.instance.id", "name", "client.id", "client"))) {
            Groups.until(() -> member.owned() == 2, member);
            member.consumer.commitSync(Map.of(partition, new OffsetAndMetadata(3, "three")));
            describe(admin, "with a member", group);
            living(admin, group, partition);
        }
        Check.observe("remove a static member", () -> {
            admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(
                    List.of(new MemberToRemove("name")))).all().get();
            return "done";
        });
        Check.observe("remove it again", () -> {
            admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(
                    List.of(new MemberToRemove("name")))).all().get();
            return "done";
        });
        describe(admin, "without members", group);
        offsets(admin, group, partition);
        Check.observeByMajor("describe an unknown group", () -> describe(admin, "nobody"));
        deletions(admin, group);
        bounds(admin, topic);
    }

    private static void describe(Admin admin, String when, String group) {
        Check.observe("describe a group " + when, () -> describe(admin, group));
        Check.observe("list it " + when, () -> admin.listConsumerGroups().all().get().stream()
                .filter(one -> one.groupId().equals(group))
                .map(one -> one.state().map(Object::toString).orElse("") + " "
                        + one.type().map(Object::toString).orElse("") + " "
                        + one.isSimpleConsumerGroup())
                .toList());
    }

    private static String describe(Admin admin, String group) throws Exception {
        ConsumerGroupDescription told =
                admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        StringBuilder members = new StringBuilder();
        told.members().forEach(member -> members.append(' ').append(member.clientId())
                .append('/').append(member.groupInstanceId().orElse("-")).append('/')
                .append(member.host().equals("/127.0.0.1")).append('/')
                .append(member.assignment().topicPartitions().size()));
        return told.state() + " '" + told.partitionAssignor() + "' simple "
                + told.isSimpleConsumerGroup() + " operations " + told.authorizedOperations()
                + " type " + told.type() + members;
    }

    /** What a group with members refuses. */
    private static void living(Admin admin, String group, TopicPartition partition) {
        Check.observe("delete a group with members", () ->
                admin.deleteConsumerGroups(List.of(group)).all().get());
        Check.observe("alter offsets under members", () -> admin.alterConsumerGroupOffsets(
                group, Map.of(partition, new OffsetAndMetadata(1))).all().get());
        Check.observe("delete offsets under members", () -> admin.deleteConsumerGroupOffsets(
                group, Set.of(partition)).partitionResult(partition).get());
    }

    private static void offsets(Admin admin, String group, TopicPartition partition) {
        TopicPartition other = new TopicPartition(partition.topic(), 1);
        TopicPartition unknown = new TopicPartition(Check.prefix + "nowhere", 0);
        Check.observe("offsets", () -> list(admin, group));
        Check.observe("alter offsets", () -> {
            admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(5),
                    other, new OffsetAndMetadata(6, "six"))).all().get();
            return list(admin, group);
        });
        Check.observe("alter offsets of an unknown topic", () -> admin.alterConsumerGroupOffsets(
                group, Map.of(unknown, new OffsetAndMetadata(5))).all().get());
        Check.observe("alter offsets of a new group", () -> {
            admin.alterConsumerGroupOffsets(group + "-new",
                    Map.of(partition, new OffsetAndMetadata(2))).all().get();
            return list(admin, group + "-new") + " " + describe(admin, group + "-new");
        });
        Check.observe("offsets of one partition", () -> admin.listConsumerGroupOffsets(Map.of(
                group, new ListConsumerGroupOffsetsSpec().topicPartitions(List.of(other))))
                .partitionsToOffsetAndMetadata(group).get().get(other).offset());
        Check.observe("offsets of an unknown group", () -> list(admin, Check.prefix + "nobody"));
        Check.observe("offsets of several groups", () -> new TreeMap<>(admin
                .listConsumerGroupOffsets(Map.of(group, new ListConsumerGroupOffsetsSpec(),
                        group + "-new", new ListConsumerGroupOffsetsSpec())).all().get()).keySet());
        Check.observe("delete offsets", () -> {
            admin.deleteConsumerGroupOffsets(group, Set.of(other)).all().get();
            return list(admin, group);
        });
        Check.observe("delete offsets that are not there", () -> {
            admin.deleteConsumerGroupOffsets(group, Set.of(other)).all().get();
            return list(admin, group);
        });
        Check.observe("delete offsets of an unknown topic", () -> admin.deleteConsumerGroupOffsets(
                group, Set.of(unknown)).all().get());
        Check.observe("delete offsets of an unknown group", () -> admin.deleteConsumerGroupOffsets(
                Check.prefix + "nobody", Set.of(partition)).all().get());
    }

    private static Map<String, String> list(Admin admin, String group) throws Exception {
        Map<String, String> told = new TreeMap<>();
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
                .forEach((partition, committed) -> told.put(partition.toString(),
                        committed.offset() + "'" + committed.metadata() + "'"));
        return told;
    }

    private static void deletions(Admin admin, String group) {
        Check.observe("delete a group", () -> {
            admin.deleteConsumerGroups(List.of(group)).all().get();
            return list(admin, group);
        });
        Check.observe("delete it again", () ->
                admin.deleteConsumerGroups(List.of(group)).all().get());
        Check.observeByMajor("remove all members of an unknown group", () -> {
            admin.removeMembersFromConsumerGroup(Check.prefix + "nobody",
                    new RemoveMembersFromConsumerGroupOptions()).all().get();
            return "done";
        });
    }

    private static void bounds(Admin admin, String topic) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 0);
        TopicPartition unknown = new TopicPartition(Check.prefix + "nowhere", 0);
        list(admin, "earliest of an empty partition", partition, OffsetSpec.earliest());
        list(admin, "largest time of an empty partition", partition, OffsetSpec.maxTimestamp());
        try (var producer = Check.producer(Map.of())) {
            for (long time : List.of(5L, 9L, 7L)) {
                producer.send(new org.apache.kafka.clients.producer.ProducerRecord<>(
                        topic, 0, Producing.STAMP_MS + time, null, new byte[1])).get();
            }
        }
        list(admin, "list earliest", partition, OffsetSpec.earliest());
        list(admin, "list latest", partition, OffsetSpec.latest());
        list(admin, "list the largest time", partition, OffsetSpec.maxTimestamp());
        list(admin, "list by time", partition, OffsetSpec.forTimestamp(Producing.STAMP_MS + 6));
        list(admin, "list by a time past all", partition,
                OffsetSpec.forTimestamp(Producing.STAMP_MS + 10));
        list(admin, "list earliest local", partition, OffsetSpec.earliestLocal());
        list(admin, "list latest tiered", partition, OffsetSpec.latestTiered());
        Check.observe("list of an unknown topic", () -> admin.listOffsets(
                Map.of(unknown, OffsetSpec.latest()),
                new org.apache.kafka.clients.admin.ListOffsetsOptions().timeoutMs(3000))
                .partitionResult(unknown).get().offset());
    }

    private static void list(Admin admin, String what, TopicPartition partition, OffsetSpec spec) {
        Check.observe(what, () -> {
            var found = admin.listOffsets(Map.of(partition, spec)).partitionResult(partition).get();
            long time = found.timestamp() < 0 ? found.timestamp()
                    : found.timestamp() - Producing.STAMP_MS;
            return found.offset() + " of " + time + " epoch " + found.leaderEpoch();
        });
    }
}
