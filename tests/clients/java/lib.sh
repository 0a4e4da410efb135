# What the scripts around Kafka's Java programs share. Sourced after tests/recovery/lib.sh.

peer=$root/perf/peers/kafka.sh
kafka_directory=""

stop_kafka() {
  [ -z "$kafka_directory" ] || "$peer" stop "$kafka_directory" || true
  kafka_directory=""
}
trap 'stop_kafka; clean_up' EXIT

# compile VERSION SOURCES...: into $scratch/classes-VERSION; the end of the script where Kafka's
# jars cannot be had.
compile() {
  local version=$1
  shift
  command -v javac >/dev/null || skip "no javac (apt-get install openjdk-17-jdk-headless maven)"
  jars "$version" >/dev/null 2>"$scratch/jars" || skip "$(tail -n 1 "$scratch/jars")"
  mkdir "$scratch/classes-$version"
  javac -nowarn -d "$scratch/classes-$version" -cp "$(jars "$version")" "$@" 2>"$scratch/javac" ||
    fail "javac: $(cat "$scratch/javac")"
}

# jars VERSION: its class path, fetched on first use.
jars() { KAFKA_VERSION=$1 "$peer" classpath; }

# java_with VERSION CLASS ARGUMENTS...: in five minutes at most.
java_with() {
  local classes=$scratch/classes-$1
  timeout 300 java -Xmx256m -XX:TieredStopAtLevel=1 -Dorg.apache.logging.log4j.level=OFF \
    -cp "$classes:$(jars "$1")" "${@:2}"
}

# start_kafka: Apache Kafka, as far as it can be with this broker's times; sets $kafka_address and
# $kafka_directory.
start_kafka() {
  local line
  kafka_directory=$(mktemp -d "$scratch/kafka.XXXX")
  line=$("$peer" start "$kafka_directory" 0 group.initial.rebalance.delay.ms=500 \
    offsets.topic.num.partitions=4 2>"$scratch/kafka.err") ||
    fail "Apache Kafka: $(cat "$scratch/kafka.err")"
  line=${line#*kafka=}
  kafka_address=${line%% *}
}

# judge WHO EXPECTED OBSERVED [DIFFERENCES]: files of NAME, tab, what was observed. Each must be as
# Apache Kafka has it (EXPECTED), or be among DIFFERENCES, where "missing" stands for no answer. A
# difference that is none has to be taken off the list.
judge() {
  differing "${@:2}" >"$scratch/judged"
  [ ! -s "$scratch/judged" ] || fail "$1 answers otherwise:
$(cat "$scratch/judged")"
  say "$1: as expected"
}

# judge_kafka WHO EXPECTED OBSERVED COMMAND...: the same of Apache Kafka, which COMMAND observes.
# Its broker takes what its controller answered for when it comes round to it, so that on a busy
# machine now and then one answer is of before: what counts is what each of three fresh Kafkas has.
judge_kafka() {
  local attempt
  for attempt in 1 2 3; do
    start_kafka
    "${@:4}"
    stop_kafka
    differing "$2" "$3" >"$scratch/judged"
    [ -s "$scratch/judged" ] || break
    say "$1 answers otherwise, attempt $attempt: $(sed -n 1p "$scratch/judged")"
  done
  judge "$1" "$2" "$3"
}

# differing EXPECTED OBSERVED [DIFFERENCES]: what `judge` fails for, in lines to read.
differing() {
  awk -F '\t' -v differences="${3:-/dev/null}" '
    BEGIN {
      while ((getline line <differences) > 0) {
        allowed[line]
        split(line, parts, "\t")
        differs[parts[1]]
      }
    }
    NR == FNR { expected[$1] = $0; next }
    { seen[$1] }
    $0 == expected[$1] {
      if ($1 in differs) print "no longer differs  " $0
      next
    }
    $0 in allowed { next }
    { print "expected " expected[$1] "\nobserved " $0 }
    END {
      for (name in expected)
        if (!(name in seen) && !(name "\tmissing" in allowed)) print "missing  " expected[name]
    }' "$1" "$2" | tr '\r' '\n'
}
