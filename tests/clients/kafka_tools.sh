#!/usr/bin/env bash
# The broker as Kafka's own command-line tools show it, the newest and in short those of release
# 3.9: what each prints must be what it prints of Apache Kafka (kafka_tools/expected), or differ on
# purpose (kafka_tools/differences). Apache Kafka itself is shown as well. What changes from run to
# run becomes NUMBER, TIME and the like first.
# Skipped where there is no Java, or nothing to fetch from.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"
. "$(dirname "$0")/java/lib.sh"

sources=$root/tests/clients/kafka_tools
old=3.9.2
new=4.4.0

# line NAME CLASS ARGUMENTS...: a line for Tools.java.
line() {
  local IFS=$'\t'
  echo "$*"
}

# run NAME TOOL ARGUMENTS...: of the newest release.
run() { line "$1" "org.apache.kafka.tools.$2" "${@:3}"; }

topic() { run "$1" TopicCommand --bootstrap-server "$at" "${@:2}"; }
config() { run "$1" ConfigCommand --bootstrap-server "$at" "${@:2}"; }
group() { run "$1" consumer.group.ConsumerGroupCommand --bootstrap-server "$at" "${@:2}"; }
offsets() { run "$1" GetOffsetShell --bootstrap-server "$at" "${@:2}"; }
consume() {
  run "$1" consumer.ConsoleConsumer --bootstrap-server "$at" --timeout-ms 10000 \
    --formatter-property print.key=true --formatter-property print.offset=true "${@:2}"
}
# One record after the other, or a tool that has ended still sends behind the next one's back.
produce() { run "$1" ConsoleProducer --bootstrap-server "$at" --sync --timeout 0 "${@:2}"; }

topics() {
  topic "create a topic" --create --topic three --partitions 3 --config retention.ms=86400000
  topic "create it again" --create --topic three --partitions 3
  topic "create it if it is not there" --create --topic three --partitions 3 --if-not-exists
  topic "create with two replicas" --create --topic two --replication-factor 2
  topic "create with an unknown setting" --create --topic two --config no.such=1
  topic "create one partition" --create --topic lines --partitions 1
  topic "list" --list --exclude-internal
  topic "describe" --describe --topic three
  topic "describe what lacks replicas" --describe --under-replicated-partitions
  topic "describe what has no leader" --describe --unavailable-partitions
  topic "describe what has settings" --describe --topics-with-overrides
  topic "describe an unknown topic" --describe --topic nowhere
  topic "grow" --alter --topic three --partitions 4
  topic "shrink" --alter --topic three --partitions 2
  topic "delete" --delete --topic three
  topic "delete the topic again" --delete --topic three
}

settings() {
  local lines=(--entity-type topics --entity-name lines)
  config "set of a broker" --entity-type brokers --entity-name 1 --alter \
    --add-config log.cleaner.threads=2
  config "set" "${lines[@]}" --alter --add-config retention.ms=500000000,segment.bytes=2097152
  config "describe settings" "${lines[@]}" --describe
  config "unset" "${lines[@]}" --alter --delete-config segment.bytes
  config "unset what is not set" "${lines[@]}" --alter --delete-config segment.bytes
  config "set a wrong value" "${lines[@]}" --alter --add-config retention.ms=soon
  config "settings of an unknown topic" --entity-type topics --entity-name nowhere --describe
  config "settings of a broker" --entity-type brokers --entity-name 1 --describe
  config "settings of all brokers" --entity-type brokers --entity-default --describe
  config "users" --entity-type users --describe
}

records() {
  produce "produce" --topic lines --reader-property parse.key=true \
    --reader-property key.separator=: '<k1:v1\nk2:v2\nk3:v3\nk4:v4\n'
  produce "produce compressed" --topic lines --compression-codec zstd '<five\nsix\n'
  produce "produce with acks 0" --topic lines --command-property acks=0 \
    --command-property enable.idempotence=false '<seven\n'
  consume "consume" --topic lines --from-beginning --max-messages 7
  consume "consume from an offset" --topic lines --partition 0 --offset 5 --max-messages 2
  consume "consume in a group" --topic lines --group readers --from-beginning --max-messages 3
  offsets "latest offsets" --topic lines
  offsets "earliest offsets" --topic lines --time -2
  offsets "offset of the largest time" --topic lines --time -3
  offsets "earliest local offsets" --topic lines --time -4
  offsets "offsets by time" --topic lines --time 1000
  offsets "offsets of partitions" --topic-partitions lines:0-1
  offsets "offsets of an unknown topic" --topic nowhere
}

groups() {
  local readers=(--group readers --topic lines --reset-offsets)
  echo '"lines",0,6' >"$scratch/resets"
  group "list groups" --list
  group "list groups by state" --list --state
  group "describe a group" --describe --group readers
  group "its state" --describe --group readers --state
  group "its members" --describe --group readers --members --verbose
  group "describe an unknown group" --describe --group nobody
  group "try a reset" "${readers[@]}" --to-earliest --dry-run
  group "reset to the earliest" "${readers[@]}" --to-earliest --execute
  group "reset to an offset" "${readers[@]}" --to-offset 4 --execute
  group "reset past the end" "${readers[@]}" --to-offset 400 --execute
  group "reset by a shift" "${readers[@]}" --shift-by -2 --execute
  group "reset to a time" "${readers[@]}" --to-datetime 2020-01-01T00:00:00.000 --execute
  group "reset by a duration" "${readers[@]}" --by-duration PT1H --execute
  group "reset to the latest" "${readers[@]}" --to-latest --execute
  group "reset to where it is" "${readers[@]}" --to-current --execute
  group "reset from a file" --group readers --reset-offsets --from-file "$scratch/resets" --execute
  group "export a reset" "${readers[@]}" --to-current --dry-run --export
  group "reset a new group" --group fresh --topic lines --reset-offsets --to-earliest --execute
  group "describe it afterwards" --describe --group readers
  group "delete offsets" --delete-offsets --group readers --topic lines
  group "delete offsets of an unknown topic" --delete-offsets --group readers --topic nowhere
  group "delete a group" --delete --group readers
  group "delete it again" --delete --group readers
  run "groups of every kind" GroupsCommand --bootstrap-server "$at" --list
}

# The consumer finds nothing new and commits nothing, and stays.
members() {
  local live=(--describe --group live)
  run "" consumer.ConsoleConsumer --bootstrap-server "$at" --topic lines --group live \
    --command-property enable.auto.commit=false
  group "state of a live group" "${live[@]}" --state '?Stable'
  group "its live members" "${live[@]}" --members
  group "its live members and what they read" "${live[@]}" --members --verbose
  group "its offsets" "${live[@]}"
  group "delete a live group" --delete --group live
  group "reset a live group" --group live --topic lines --reset-offsets --to-earliest --execute
  group "list live groups" --list --state stable
}

loads() {
  topic "create for load" --create --topic load --partitions 2
  run "producer's speed" ProducerPerformance --topic load --num-records 2000 --record-size 100 \
    --throughput -1 --command-property "bootstrap.servers=$at"
  run "consumer's speed" ConsumerPerformance --bootstrap-server "$at" --topic load \
    --num-records 2000 --timeout 10000
  offsets "offsets of the load" --topic load
  run "latency" EndToEndLatency --bootstrap-server "$at" --topic load --num-records 20 \
    --producer-acks all --record-size 20
}

others() {
  local admin=(--bootstrap-server "$at")
  echo '{"version":1,"partitions":[{"topic":"lines","partition":0,"offset":2}]}' >"$scratch/before"
  echo '{"version":1,"partitions":[{"topic":"lines","partition":0,"offset":99}]}' >"$scratch/past"
  run "cluster's id" ClusterTool cluster-id "${admin[@]}"
  run "cluster's endpoints" ClusterTool list-endpoints "${admin[@]}"
  run "versions" BrokerApiVersionsCommand "${admin[@]}"
  run "delete records" DeleteRecordsCommand "${admin[@]}" --offset-json-file "$scratch/before"
  run "delete past the end" DeleteRecordsCommand "${admin[@]}" --offset-json-file "$scratch/past"
  run "log directories" LogDirsCommand "${admin[@]}" --describe --topic-list lines
  run "acls" AclCommand "${admin[@]}" --list
  run "features" FeatureCommand "${admin[@]}" describe
  run "transactions" TransactionsCommand "${admin[@]}" list
  run "producers" TransactionsCommand "${admin[@]}" describe-producers --topic lines --partition 0
  run "quorum" MetadataQuorumCommand "${admin[@]}" describe --status
  run "elections" LeaderElectionCommand "${admin[@]}" --election-type preferred \
    --topic lines --partition 0
  run "reassignments" reassign.ReassignPartitionsCommand "${admin[@]}" --list
  run "tokens" DelegationTokenCommand "${admin[@]}" --describe --command-config /dev/null
  run "share groups" consumer.group.ShareGroupCommand "${admin[@]}" --list
  run "streams groups" streams.StreamsGroupCommand "${admin[@]}" --list
}

# The tools of the older release that scripts are full of, some with other options.
older() {
  local tools=org.apache.kafka.tools address=(--bootstrap-server "$at")
  local lines=(--entity-type topics --entity-name older)
  local group=$tools.consumer.group.ConsumerGroupCommand
  line "3.9: create" $tools.TopicCommand "${address[@]}" --create --topic older --partitions 2
  line "3.9: describe" $tools.TopicCommand "${address[@]}" --describe --topic older
  line "3.9: grow" $tools.TopicCommand "${address[@]}" --alter --topic older --partitions 3
  line "3.9: list" $tools.TopicCommand "${address[@]}" --list --exclude-internal
  line "3.9: set" kafka.admin.ConfigCommand "${address[@]}" "${lines[@]}" --alter \
    --add-config retention.ms=500000000
  line "3.9: describe settings" kafka.admin.ConfigCommand "${address[@]}" "${lines[@]}" --describe
  line "3.9: unset" kafka.admin.ConfigCommand "${address[@]}" "${lines[@]}" --alter \
    --delete-config retention.ms
  line "3.9: produce" kafka.tools.ConsoleProducer "${address[@]}" --topic older \
    --sync --timeout 0 \
    --property parse.key=true --property key.separator=: '<k1:v1\nk1:v2\nk1:v3\n'
  line "3.9: consume in a group" $tools.consumer.ConsoleConsumer "${address[@]}" --topic older \
    --group older --from-beginning --max-messages 3 --timeout-ms 10000 \
    --property print.key=true --property print.offset=true
  line "3.9: describe a group" $group "${address[@]}" --describe --group older
  line "3.9: its state" $group "${address[@]}" --describe --group older --state
  line "3.9: reset" $group "${address[@]}" --group older --topic older --reset-offsets \
    --to-earliest --execute
  line "3.9: delete a group" $group "${address[@]}" --delete --group older
  line "3.9: latest offsets" $tools.GetOffsetShell "${address[@]}" --topic older
  line "3.9: earliest offsets" $tools.GetOffsetShell "${address[@]}" --topic older --time -2
  line "3.9: producer's speed" $tools.ProducerPerformance --topic older --num-records 2000 \
    --record-size 100 --throughput -1 --producer-props "bootstrap.servers=$at"
  line "3.9: consumer's speed" $tools.ConsumerPerformance "${address[@]}" --topic older \
    --messages 2000 --timeout 10000
  line "3.9: delete" $tools.TopicCommand "${address[@]}" --delete --topic older
}

# What no two runs print alike becomes a word, what stands in columns gets one space, and
# the words of an exception are left out, as are places in a program and the versions of each API.
normalise() {
  sed -E 's/[ \t]+/ /g; s/ $//
    s/console-consumer-[0-9a-f]{8}-[0-9a-f-]{27}/MEMBER/
    s/127\.0\.0\.1:[0-9]+/ADDRESS/g; s/127\.0\.0\.1/HOST/g; s/HOST [0-9]+/HOST PORT/
    s/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+Z?/TIME/g; s/^TIME, TIME, .*/MEASURED/
    s/(TopicId|ClusterId|Cluster ID): *[A-Za-z0-9_-]{20,}/\1: ID/
    s/"logDir":"[^"]*"/PATH/; s/"size":[0-9]+/SIZE/; s/"directoryId": "[^"]*"/ID/
    s/[0-9]+ records sent.*/NUMBER records sent/; s/^load:([01]):[0-9]+/load:\1:NUMBER/
    s/ synonyms=\{.*\}//; s/(min\.insync\.replicas=1|max\.message\.bytes=1048576),?//; s/ $//
    s/(org\.apache[A-Za-z.]+Exception): .*/\1/
    s/(Epoch|HighWatermark): [0-9]+$/\1: NUMBER/
    s/^[0-9]+ [0-9]+ -1 [0-9]+ [0-9]{13} None$/A PRODUCER/
    /^Tools.Ended|^(Error while executing topic command : )?ended$/d
    /^Percentiles|^Avg latency|^[0-9]+ [0-9.]+$|^console-consumer-/d
    /^The consumer rebalance protocol|^ [A-Za-z]+\([0-9]+\): /d
    /^WARNING|^SLF4J|^log4j:|^ at |^ \.\.\. [0-9]+ more|^$/d'
}

# sections: from what tools printed, a line each: the name of the run, a tab, and all its lines.
sections() {
  sed '/^# /d; /^$/d' | awk '
    /^## / { if (name) print name "\t" text; name = substr($0, 4); text = ""; next }
    { text = text "\r" $0 }
    END { print name "\t" text }'
}

# show NAME ADDRESS [PAUSE_MS]: runs all tools against a broker, with a pause behind each that
# changes something; what they print goes to $scratch/observed, a line each.
show() {
  local at=$2
  (topics; settings; records; groups; members; loads; others) >"$scratch/lines"
  older >"$scratch/older"
  {
    java_with $new Tools "${3:-0}" <"$scratch/lines" &&
      java_with $old Tools "${3:-0}" <"$scratch/older"
  } >"$scratch/printed" 2>"$scratch/err" || fail "$1: $(tail -n 3 "$scratch/err")"
  normalise <"$scratch/printed" | sections >"$scratch/observed"
}

# Its broker learns a little later what its controller has done.
show_kafka() { show apache-kafka "$kafka_address" 500; }

compile $old "$sources"/*.java
compile $new "$sources"/*.java
sections <"$sources/expected" >"$scratch/expected"
sections <"$sources/differences" >"$scratch/differences"

serve "$scratch/one-port"
show millrace "$address"
stop
judge millrace "$scratch/expected" "$scratch/observed" "$scratch/differences"
judge_kafka apache-kafka "$scratch/expected" "$scratch/observed" show_kafka
say "passed: $(wc -l <"$scratch/expected") runs of tools"
