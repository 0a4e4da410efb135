#!/usr/bin/env bash
# Apache Kafka on this machine, to compare with: the same clients and loads, the other broker.
set -euo pipefail

usage() {
    cat <<'END'
Apache Kafka as one node, broker and controller in one process (KRaft), to compare with.

  perf/peers/kafka.sh fetch                    fetches Kafka and its tools from Maven Central
  perf/peers/kafka.sh classpath                prints the class path of what was fetched
  perf/peers/kafka.sh start DIR PORT [--flush-each-message] [PROPERTY=VALUE...]
  perf/peers/kafka.sh stop DIR

start    fetches if need be, formats DIR on first use, and starts a broker that outlives the
         script. Prints `ready kafka=127.0.0.1:PORT pid=N` once the broker answers a request.
         PORT 0 takes a free one. Everything is under DIR: server.properties, log, gc.log, pid and
         the broker's files in data. A DIR of an earlier start is used as it is.
         --flush-each-message sets log.flush.interval.messages=1: Kafka then syncs each batch to
         the disk before it answers. Without it an answer says that a batch is in memory, and the
         kernel writes it when it likes.
         PROPERTY=VALUE goes to server.properties as it is, after everything else.
stop     ends the broker of DIR as an operator would, and waits until it is gone.

Settings are Kafka's defaults, but for what one node needs: replication factors of Kafka's own
topics are 1. Heap and collector are those of kafka-server-start (-Xms1G -Xmx1G, G1), or
KAFKA_HEAP_OPTS and KAFKA_JVM_PERFORMANCE_OPTS.

KAFKA_VERSION   which release (4.4.0)
KAFKA_HOME_DIR  where its jars are kept (target/clients/apache-kafka-VERSION)

Exit code 3: Kafka cannot be had here (no Java 17, no Maven, or nothing to fetch from), in one line.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
version=${KAFKA_VERSION:-4.4.0}
home=${KAFKA_HOME_DIR:-${CARGO_TARGET_DIR:-$root/target}/clients/apache-kafka-$version}
heap=${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G}
collector=${KAFKA_JVM_PERFORMANCE_OPTS:--server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
-XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 \
-Djava.awt.headless=true}

unavailable() { echo "kafka.sh: $*" >&2; exit 3; }
fail() { echo "kafka.sh: $*" >&2; exit 1; }

# Jars arrive in a directory of their own, which gets its name when all of them are there.
fetch() {
    local major pom=$home.fetching
    command -v java >/dev/null || unavailable "no java (apt-get install openjdk-17-jdk-headless)"
    major=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ] || unavailable "Java 17 or newer is needed, this is ${major:-unknown}"
    [ ! -d "$home" ] || return 0
    command -v mvn >/dev/null || unavailable "no mvn (apt-get install maven)"
    rm -rf "$pom"
    mkdir -p "$pom"
    cat >"$pom/pom.xml" <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>peers</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.5</version>
    </dependency>
  </dependencies>
</project>
END
    (cd "$pom" && mvn -q -B dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory=libs) >"$pom/mvn.log" 2>&1 ||
        unavailable "Kafka $version cannot be fetched: $(grep -m 1 ERROR "$pom/mvn.log" || true)"
    mv "$pom" "$home"
}

# value DIR NAME: what server.properties of DIR says.
value() { sed -n "s/^$2=//p" "$1/server.properties" 2>/dev/null | tail -n 1 || true; }

# A port that nobody listens on. Below the range from which the kernel hands out ports.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 10000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    fail "no free port"
}

# configure DIR PORT PROPERTIES...
configure() {
    local directory=$1 port=$2 controller
    shift 2
    [ "$port" != 0 ] || port=$(free_port)
    # The voter set of an earlier start names its controller's port.
    controller=$(value "$directory" controller.quorum.bootstrap.servers)
    controller=${controller#*:}
    [ -n "$controller" ] || controller=$(free_port)
    cat >"$directory/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
log.dirs=$directory/data
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
END
    [ $# = 0 ] || printf '%s\n' "$@" >>"$directory/server.properties"
    cat >"$directory/log4j2.properties" <<'END'
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
END
}

# Whether the broker on this port answers ApiVersions, version 0: only a started one does.
answers() {
    local length
    exec 9<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf '\0\0\0\12\0\22\0\0\0\0\0\7\377\377' >&9
    length=$(timeout 2 head -c 4 <&9 | od -An -tu1)
    exec 9>&-
    [ -n "$length" ]
}

start() {
    local directory port pid properties=()
    [ $# -ge 2 ] || fail "start DIR PORT [--flush-each-message] [PROPERTY=VALUE...]"
    mkdir -p "$1"
    directory=$(cd "$1" && pwd)
    port=$2
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            --flush-each-message) properties+=(log.flush.interval.messages=1) ;;
            *=*) properties+=("$1") ;;
            *) fail "neither an option nor PROPERTY=VALUE: $1" ;;
        esac
        shift
    done
    ! running "$directory" || fail "a broker of $directory runs already"
    fetch
    configure "$directory" "$port" ${properties[@]+"${properties[@]}"}
    [ -f "$directory/data/meta.properties" ] ||
        java -cp "$home/libs/*" -Dlog4j2.configurationFile="$directory/log4j2.properties" \
            kafka.tools.StorageTool format --standalone -t "$(cluster_id)" \
            -c "$directory/server.properties" >"$directory/log" 2>&1 ||
        fail "not formatted: $(tail -n 3 "$directory/log")"
    # shellcheck disable=SC2086 # several options each
    setsid java $heap $collector -cp "$home/libs/*" \
        "-Xlog:gc*:file=$directory/gc.log:time,tags:filecount=10,filesize=100M" \
        -Dlog4j2.configurationFile="$directory/log4j2.properties" \
        kafka.Kafka "$directory/server.properties" >>"$directory/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$directory/pid"
    port=$(value "$directory" listeners | sed 's/.*PLAINTEXT:[^:]*:\([0-9]*\).*/\1/')
    for _ in $(seq 600); do
        kill -0 "$pid" 2>/dev/null || fail "ended: $(tail -n 3 "$directory/log")"
        if answers "$port" 2>/dev/null; then
            echo "ready kafka=127.0.0.1:$port pid=$pid"
            return
        fi
        sleep 0.1
    done
    kill -KILL "$pid"
    fail "not ready within 60 s: $(tail -n 3 "$directory/log")"
}

# 16 random bytes as Kafka writes them; never with a leading dash, which would be an option.
cluster_id() { head -c 16 /dev/urandom | base64 | tr '+/' '__' | tr -d '='; }

running() { [ -f "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null; }

stop() {
    local pid
    [ $# = 1 ] || fail "stop DIR"
    running "$1" || fail "no broker of $1 runs"
    pid=$(cat "$1/pid")
    kill -TERM "$pid"
    for _ in $(seq 300); do
        kill -0 "$pid" 2>/dev/null || { rm -f "$1/pid"; return 0; }
        sleep 0.1
    done
    kill -KILL "$pid"
    rm -f "$1/pid"
    fail "the broker of $1 did not end within 30 s, and was killed"
}

case ${1:-} in
    fetch) fetch ;;
    classpath) fetch; echo "$home/libs/*" ;;
    start | stop) "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
