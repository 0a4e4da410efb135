import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

/** Classic groups: sharing, rebalancing, committing, and what a member is refused. */
final class Groups {
    private static final Duration TICK = Duration.ofMillis(50);
    private static final long PATIENCE_MS = 20_000;

    private Groups() {}

    static void run(Admin admin) throws Exception {
        String topic = Topics.create(admin, "shared", 4, Map.of());
        fill(topic, 4, 100);
        resume(topic);
        commits(topic);
        sharing("range", RangeAssignor.class, topic);
        sharing("cooperative", CooperativeStickyAssignor.class, topic);
        sharing("round robin", RoundRobinAssignor.class, topic);
        statics(topic);
        refusals(topic);
        growing(admin);
    }

    private static void fill(String topic, int partitions, int each) {
        try (var producer = Check.producer(Map.of())) {
            for (int i = 0; i < partitions * each; i++) {
                producer.send(new ProducerRecord<>(
                        topic, i % partitions, null, ("" + i / partitions).getBytes()));
            }
        }
    }

    /** A member with its history: how many partitions each call of its listener named. */
    static final class Member implements AutoCloseable {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<String> history = new ArrayList<>();
        final TreeSet<String> seen = new TreeSet<>();
        int records;

        Member(String group, String topic, Map<String, ?> overrides) {
            Map<String, Object> all = new HashMap<>(overrides);
            all.put("group.id", group.isEmpty() ? group : Check.prefix + group);
            consumer = Check.consumer(all);
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    note("-", partitions);
                }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    note("+", partitions);
                }

                @Override
                public void onPartitionsLost(Collection<TopicPartition> partitions) {
                    note("lost ", partitions);
                }
            });
        }

        /** A call without partitions tells nothing: how many there are is a matter of time. */
        private void note(String sign, Collection<TopicPartition> partitions) {
            if (!partitions.isEmpty()) {
                history.add(sign + partitions.size());
            }
        }

        void poll() {
            for (var record : consumer.poll(TICK)) {
                records++;
                seen.add(record.partition() + ":" + record.offset());
            }
        }

        int owned() {
            return consumer.assignment().size();
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    /** Polls all of them in turn until it holds; gives whether it came to that. */
    static boolean until(BooleanSupplier holds, Member... members) {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        while (!holds.getAsBoolean()) {
            if (System.currentTimeMillis() > end) {
                return false;
            }
            for (Member member : members) {
                member.poll();
            }
        }
        return true;
    }

    private static void resume(String topic) {
        try (Member member = new Member("resume", topic, Map.of("max.poll.records", 37))) {
            until(() -> member.records >= 100, member);
            member.consumer.commitSync();
            Check.say("before the commit", member.records == member.seen.size());
        }
        try (Member first = new Member("resume", topic, Map.of())) {
            until(() -> first.records >= 400 - 111, first);
            first.consumer.commitSync();
            Check.say("after the commit", first.records + " of " + first.seen.size());
        }
        try (Member last = new Member("resume", topic, Map.of())) {
            until(() -> last.owned() == 4, last);
            last.poll();
            Check.say("after everything", last.records);
        }
    }

    private static void commits(String topic) {
        TopicPartition partition = new TopicPartition(topic, 0);
        TopicPartition other = new TopicPartition(topic, 1);
        try (var consumer = Check.consumer(Map.of("group.id", Check.prefix + "commits"))) {
            consumer.assign(List.of(partition));
            consumer.commitSync(Map.of(partition, new OffsetAndMetadata(7, "seven")));
            Check.observe("committed", () -> told(consumer.committed(java.util.Set.of(
                    partition, other)).get(partition)));
            Check.observe("not committed", () ->
                    consumer.committed(java.util.Set.of(other)).get(other));
            Check.observe("position from the committed offset", () -> consumer.position(partition));
            AtomicReference<String> answer = new AtomicReference<>("no answer");
            consumer.commitAsync(Map.of(partition, new OffsetAndMetadata(9)), (offsets, failure) ->
                    answer.set(failure == null ? told(offsets.get(partition))
                            : Check.nameOf(failure)));
            for (int i = 0; i < 100 && answer.get().equals("no answer"); i++) {
                consumer.poll(TICK);
            }
            Check.say("committed asynchronously", answer.get());
            Check.observe("commit past the end", () -> {
                consumer.commitSync(Map.of(partition, new OffsetAndMetadata(5000)));
                return told(consumer.committed(java.util.Set.of(partition)).get(partition));
            });
            Check.observe("commit with long metadata", () -> {
                consumer.commitSync(Map.of(
                        partition, new OffsetAndMetadata(1, "x".repeat(5000))));
                return "done";
            });
            Check.observe("commit for an unknown topic", () -> {
                consumer.commitSync(Map.of(new TopicPartition(Check.prefix + "nowhere", 0),
                        new OffsetAndMetadata(1)), Duration.ofSeconds(2));
                return "done";
            });
            Check.observe("commit for a partition that is not there", () -> {
                consumer.commitSync(Map.of(new TopicPartition(topic, 44),
                        new OffsetAndMetadata(1)), Duration.ofSeconds(2));
                return "done";
            });
        }
    }

    private static String told(OffsetAndMetadata committed) {
        return committed.offset() + " '" + committed.metadata() + "'";
    }

    private static void sharing(String name, Class<?> assignor, String topic) {
        Map<String, ?> settings = Map.of("partition.assignment.strategy", assignor.getName());
        String group = "sharing-" + assignor.getSimpleName();
        Member one = new Member(group, topic, settings);
        Member two = new Member(group, topic, settings);
        try (one) {
            until(() -> one.owned() == 4 && one.records == 400, one);
            one.consumer.commitSync();
            try (two) {
                Check.say(name + ", shared",
                        until(() -> one.owned() == 2 && two.owned() == 2, one, two));
                two.poll();
                Check.say(name + ", read twice", one.records + two.records - 400);
            }
            Check.say(name + ", whole again", until(() -> one.owned() == 4, one));
            Check.say(name + ", protocol", one.consumer.groupMetadata().groupId() + " generation "
                    + one.consumer.groupMetadata().generationId());
        }
        Check.say(name + ", the first", one.history);
        Check.say(name + ", the second", two.history);
    }

    /** A static member that comes back gets what it had, and nobody else notices. */
    private static void statics(String topic) {
        Map<String, ?> first = Map.of("group.instance.id", "one");
        Map<String, ?> second = Map.of("group.instance.id", "two");
        Member one = new Member("static", topic, first);
        try (one; Member two = new Member("static", topic, second)) {
            until(() -> one.owned() == 2 && two.owned() == 2, one, two);
            TreeSet<String> had = names(two);
            int generation = one.consumer.groupMetadata().generationId();
            two.close();
            try (Member back = new Member("static", topic, second)) {
                until(() -> back.owned() == 2, one, back);
                Check.say("static, got back what it had", names(back).equals(had));
                Check.say("static, the other noticed",
                        one.consumer.groupMetadata().generationId() != generation);
                try (Member thief = new Member("static", topic, second)) {
                    until(() -> thief.owned() == 2, one, thief);
                    Check.observe("static, the same name twice", () -> {
                        until(() -> false, back);
                        return "nothing";
                    });
                }
            }
        }
    }

    private static TreeSet<String> names(Member member) {
        TreeSet<String> names = new TreeSet<>();
        member.consumer.assignment().forEach(partition -> names.add(partition.toString()));
        return names;
    }

    private static void refusals(String topic) {
        try (Member member = new Member("refusals", topic, Map.of())) {
            until(() -> member.owned() == 4, member);
            Check.observe("commit by a stranger to a group with members", () -> {
                try (var stranger = Check.consumer(
                        Map.of("group.id", Check.prefix + "refusals"))) {
                    stranger.assign(List.of(new TopicPartition(topic, 0)));
                    stranger.commitSync(Map.of(
                            new TopicPartition(topic, 0), new OffsetAndMetadata(1)));
                    return "done";
                }
            });
            refuse("joining with no strategy in common", "refusals", topic,
                    Map.of("partition.assignment.strategy", RoundRobinAssignor.class.getName()));
        }
        refuse("joining with a session too short", "short", topic,
                Map.of("session.timeout.ms", 1000, "heartbeat.interval.ms", 100));
        refuse("joining with a session too long", "long", topic,
                Map.of("session.timeout.ms", 4_000_000, "max.poll.interval.ms", 5_000_000));
        refuse("joining with no name", "", topic, Map.of());
    }

    private static void refuse(String what, String group, String topic, Map<String, ?> settings) {
        Check.observeByMajor(what, () -> {
            try (Member member = new Member(group, topic, settings)) {
                boolean joined = until(() -> member.owned() == 4, member);
                return joined ? "joined" : "nothing";
            }
        });
    }

    /** New partitions reach a member when its metadata is fresh again. */
    private static void growing(Admin admin) throws Exception {
        String topic = Topics.create(admin, "growing", 1, Map.of());
        try (Member member = new Member("growing", topic, Map.of("metadata.max.age.ms", 300))) {
            until(() -> member.owned() == 1, member);
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
            Check.say("a member sees new partitions", until(() -> member.owned() == 3, member));
            try (var producer = Check.producer(Map.of())) {
                producer.send(new ProducerRecord<>(topic, 2, null, new byte[1])).get();
            }
            Check.say("and reads them", until(() -> member.records == 1, member));
            Check.say("its history", member.history);
        }
    }
}
