import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.quota.ClientQuotaFilter;

/** What few ask for: the answer may be a refusal, and comes at once. */
final class Unserved {
    private Unserved() {}

    static void run(Admin admin) throws Exception {
        String topic = Topics.create(admin, "rare", 1, Map.of());
        TopicPartition partition = new TopicPartition(topic, 0);
        try (var producer = Check.producer(Map.of())) {
            for (int i = 0; i < 10; i++) {
                Producing.send(producer, topic, 100);
            }
        }
        deleteRecords(admin, partition);
        inspections(admin, partition);
        Check.observe("acls", () -> admin.describeAcls(AclBindingFilter.ANY).values().get());
        Check.observe("quotas", () ->
                admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
        Check.observe("scram users", () ->
                admin.describeUserScramCredentials().all().get());
        Check.observe("delegation tokens", () ->
                admin.describeDelegationToken().delegationTokens().get());
        Check.observe("a new delegation token", () ->
                admin.createDelegationToken().delegationToken().get());
        Check.observe("features", () ->
                admin.describeFeatures().featureMetadata().get().finalizedFeatures().isEmpty());
        Check.observe("quorum", () ->
                admin.describeMetadataQuorum().quorumInfo().get().voters().size());
        Check.observe("elect a leader", () -> admin.electLeaders(
                ElectionType.PREFERRED, Set.of(partition)).partitions().get().get(partition)
                .map(Check::nameOf));
        Check.observe("reassignments", () ->
                admin.listPartitionReassignments().reassignments().get());
        Check.observe("reassign", () -> admin.alterPartitionReassignments(
                Map.of(partition, Optional.empty())).all().get());
    }

    private static void deleteRecords(Admin admin, TopicPartition partition) {
        for (long before : List.of(4L, 2L, 11L, -1L)) {
            Check.observe("delete records before " + before, () -> admin.deleteRecords(
                    Map.of(partition, RecordsToDelete.beforeOffset(before)))
                    .lowWatermarks().get(partition).get().lowWatermark());
        }
        TopicPartition unknown = new TopicPartition(Check.prefix + "nowhere", 0);
        Check.observe("delete records of an unknown topic", () -> admin.deleteRecords(
                Map.of(unknown, RecordsToDelete.beforeOffset(1)),
                new org.apache.kafka.clients.admin.DeleteRecordsOptions().timeoutMs(3000))
                .lowWatermarks().get(unknown).get().lowWatermark());
    }

    private static void inspections(Admin admin, TopicPartition partition) {
        Check.observe("log directories", () -> {
            int node = admin.describeTopics(List.of(partition.topic())).allTopicNames().get()
                    .get(partition.topic()).partitions().get(0).leader().id();
            return admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node)
                    .values().stream()
                    .filter(one -> one.replicaInfos().containsKey(partition))
                    .map(one -> one.replicaInfos().get(partition).size() >= 0)
                    .toList();
        });
        Check.observe("producers", () -> admin.describeProducers(List.of(partition))
                .partitionResult(partition).get().activeProducers().stream()
                .map(one -> one.lastSequence() + " epoch " + one.producerEpoch() + " transaction "
                        + one.currentTransactionStartOffset())
                .toList());
        Check.observe("transactions listed", () ->
                admin.listTransactions().all().get().size() >= 0);
    }
}
