// The broker as kafkajs sees it. The command line is ADDRESS CRASH_FILE.

import assert from 'node:assert/strict'
import fs from 'node:fs'

import kafkajs from 'kafkajs'
import snappy from 'kafkajs-snappy'

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = kafkajs
CompressionCodecs[CompressionTypes.Snappy] = snappy

const PARTITIONS = 4
// How long anything that should work may take on a busy machine.
const PATIENCE_MS = 60_000
// The time of the first record of each topic: recent enough for retention to leave it alone.
const BASE_MS = Date.now() - 3_600_000

const [address, crashFile] = process.argv.slice(2)
const kafka = new Kafka({
  brokers: [address],
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 50, maxRetryTime: 300, retries: 100 },
})
const admin = kafka.admin()
// Does not ask again what was refused.
const impatient = kafka.admin({ retry: { retries: 0 } })

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS
  while (!(await holds())) {
    assert(Date.now() < deadline, `waited in vain for ${what}`)
    await sleep(20)
  }
}

// The error's type is Kafka's name of its code.
async function refused(type, asked) {
  const error = await asked.then(() => null, failed => failed)
  const found = error?.errors?.[0] ?? error
  assert.equal(found?.type ?? found?.cause?.type ?? found?.cause?.cause?.type, type, `${error}`)
}

async function create(topic) {
  const topics = [{ topic, numPartitions: PARTITIONS }]
  assert(await admin.createTopics({ topics, waitForLeaders: true }))
}

// Everything that a message may have, told apart by its number.
const message = number => ({
  key: `key ${number}`,
  value: `${number}`,
  headers: { number: `${number}` },
  partition: number % PARTITIONS,
  timestamp: `${BASE_MS + number}`,
})

const messages = (from, to) => Array.from({ length: to - from }, (_, i) => message(from + i))

// Holds what is read against what was sent: of each partition the next one, in order. What was read
// and not committed may come again.
class Numbers {
  next = [0, 1, 2, 3]
  count = 0

  constructor(repeats = false) {
    this.repeats = repeats
  }

  take(partition, found) {
    const number = Number(found.value)
    assert.equal(number % PARTITIONS, partition)
    assert.equal(found.offset, `${Math.floor(number / PARTITIONS)}`)
    assert.equal(`${found.key}`, `key ${number}`)
    assert.equal(`${found.headers.number}`, `${number}`)
    assert.equal(found.timestamp, `${BASE_MS + number}`)
    if (number === this.next[partition]) {
      this.next[partition] += PARTITIONS
      this.count += 1
    } else {
      assert(this.repeats && number < this.next[partition], `${number}, next ${this.next}`)
    }
  }
}

// Consumes in a group until it is stopped, message by message or batch by batch.
async function join(groupId, topic, numbers, eachBatch = false) {
  const consumer = kafka.consumer({
    groupId,
    heartbeatInterval: 200,
    maxWaitTimeInMs: 50,
    allowAutoTopicCreation: false,
  })
  const member = { consumer, read: 0, failed: null, stop: () => consumer.disconnect() }
  const take = (partition, found) => {
    try {
      numbers.take(partition, found)
      member.read += 1
    } catch (error) {
      // Thrown from here it would be tried again for ever.
      member.failed ??= error
    }
  }
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) member.failed ??= payload.error
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const byMessage = { eachMessage: async ({ partition, message }) => take(partition, message) }
  const byBatch = {
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary }) => {
      for (const found of batch.messages) {
        take(batch.partition, found)
        resolveOffset(found.offset)
      }
      await heartbeat()
      await commitOffsetsIfNecessary()
    },
  }
  const how = eachBatch ? byBatch : byMessage
  await consumer.run({ autoCommitInterval: 50, ...how })
  return member
}

async function committed(groupId, topic) {
  const [found] = await admin.fetchOffsets({ groupId, topics: [topic] })
  const offsets = []
  for (const { partition, offset } of found.partitions) offsets[partition] = Number(offset)
  return offsets
}

async function awaitCommitted(groupId, topic, count, ...members) {
  await until(`${count} committed`, async () => {
    for (const member of members) assert.equal(member.failed, null)
    const offsets = await committed(groupId, topic)
    return offsets.reduce((sum, offset) => sum + Math.max(offset, 0), 0) === count
  })
}

async function awaitMembers(groupId, count) {
  await until(`${count} members`, async () => {
    const { groups } = await admin.describeGroups([groupId])
    return groups[0].state === 'Stable' && groups[0].members.length === count
  })
}

async function checkProduce() {
  const { None, GZIP, Snappy } = CompressionTypes
  for (const [name, settings, how] of [
    ['none', {}, { compression: None }],
    ['gzip', {}, { compression: GZIP }],
    ['snappy', {}, { compression: Snappy }],
    ['exact', { idempotent: true, maxInFlightRequests: 1 }, {}],
    ['acks-0', {}, { acks: 0 }],
    ['acks-1', {}, { acks: 1 }],
  ]) {
    const topic = `js-${name}`
    await create(topic)
    const producer = kafka.producer(settings)
    await producer.connect()
    const sent = await producer.send({ topic, messages: messages(0, 400), ...how })
    if (name !== 'acks-0') assert.deepEqual(sent.map(each => each.baseOffset), ['0', '0', '0', '0'])
    await producer.disconnect()
    const numbers = new Numbers()
    const member = await join(`js-reader-${name}`, topic, numbers)
    await until('all to be read', () => numbers.count === 400)
    assert.equal(member.failed, null)
    await member.stop()
  }
}

async function checkGroups() {
  for (const eachBatch of [false, true]) {
    const name = eachBatch ? 'js-batches' : 'js-messages'
    await create(name)
    const producer = kafka.producer()
    await producer.connect()
    const send = (from, to) => producer.send({ topic: name, messages: messages(from, to) })
    const numbers = new Numbers()
    await send(0, 400)
    const first = await join(name, name, numbers, eachBatch)
    await awaitCommitted(name, name, 400, first)
    const second = await join(name, name, numbers, eachBatch)
    await awaitMembers(name, 2)
    await send(400, 800)
    await awaitCommitted(name, name, 800, first, second)
    assert.equal(second.read, 200)
    await first.stop()
    await awaitMembers(name, 1)
    await send(800, 1000)
    await awaitCommitted(name, name, 1000, second)
    await second.stop()
    await send(1000, 1100)
    const third = await join(name, name, numbers, eachBatch)
    await awaitCommitted(name, name, 1100, third)
    await third.stop()
    assert.equal(numbers.count, 1100)
    await producer.disconnect()
  }
}

async function checkTopics() {
  const topic = 'js-admin'
  const configEntries = [{ name: 'retention.ms', value: '86400000' }]
  const topics = [{ topic, numPartitions: 3, configEntries }]
  assert(await admin.createTopics({ topics }))
  assert.equal(await admin.createTopics({ topics }), false)
  await refused('INVALID_REPLICATION_FACTOR', impatient.createTopics({
    topics: [{ topic: 'js-three', replicationFactor: 3 }],
  }))
  await admin.createPartitions({ topicPartitions: [{ topic, count: PARTITIONS }] })
  const metadata = await admin.fetchTopicMetadata({ topics: [topic] })
  assert.equal(metadata.topics[0].partitions.length, PARTITIONS)
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ ...resource, configEntries: [{ name: 'max.message.bytes', value: '5000' }] }],
  })
  const configNames = ['retention.ms', 'max.message.bytes']
  const { resources } = await admin.describeConfigs({ resources: [{ ...resource, configNames }] })
  const values = Object.fromEntries(
    resources[0].configEntries.map(each => [each.configName, each.configValue]))
  assert.deepEqual(values, { 'retention.ms': '604800000', 'max.message.bytes': '5000' })
  const cluster = await admin.describeCluster()
  assert.equal(cluster.controller, 1)
  await admin.deleteTopics({ topics: [topic] })
  assert(!(await admin.listTopics()).includes(topic))
  await refused('UNKNOWN_TOPIC_OR_PARTITION', impatient.deleteTopics({ topics: [topic] }))
}

async function checkOffsets() {
  const topic = 'js-gzip'
  const ends = await admin.fetchTopicOffsets(topic)
  assert.deepEqual(ends.map(each => [each.low, each.high]), Array(4).fill(['0', '100']))
  const found = await admin.fetchTopicOffsetsByTimestamp(topic, BASE_MS + 202)
  const byTime = found.sort((a, b) => a.partition - b.partition).map(each => each.offset)
  assert.deepEqual(byTime, ['51', '51', '50', '50'])

  const groupId = 'js-reader-gzip'
  const { groups } = await admin.listGroups()
  assert(groups.some(each => each.groupId === groupId))
  await admin.setOffsets({ groupId, topic, partitions: [{ partition: 2, offset: '7' }] })
  assert.equal((await committed(groupId, topic))[2], 7)
  await admin.resetOffsets({ groupId, topic, earliest: true })
  const reset = await admin.fetchOffsets({ groupId, topics: [topic], resolveOffsets: true })
  assert.deepEqual(reset[0].partitions.map(each => each.offset), ['0', '0', '0', '0'])
  await admin.deleteGroups([groupId])
  await refused('GROUP_ID_NOT_FOUND', impatient.deleteGroups([groupId]).catch(error => {
    throw error.groups?.[0]?.error ?? error
  }))

  const producer = kafka.producer({ retry: { retries: 0 } })
  await producer.connect()
  const large = { value: 'x'.repeat(3 << 19), partition: 0 }
  await refused('MESSAGE_TOO_LARGE', producer.send({ topic, messages: [large] }))
  await producer.disconnect()
}

// Two crashes amid producing and consuming: each acknowledged message is there once and in order, a
// group reads them all, and its committed offsets never go back.
async function checkCrash() {
  const topic = 'js-crash'
  await create(topic)
  const numbers = new Numbers(true)
  const member = await join(topic, topic, numbers)
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const returned = () => until("the broker's return", () => !fs.existsSync(crashFile))
  let before = []
  const neverBack = async () => {
    const now = await committed(topic, topic)
    before.forEach((offset, partition) => assert(now[partition] >= offset, `${before}, ${now}`))
    before = now
  }
  for (let number = 0; number < 1200; number += PARTITIONS) {
    if (number === 400 || number === 800) {
      await returned()
      await neverBack()
      fs.writeFileSync(crashFile, '')
    }
    const sent = await producer.send({ topic, messages: messages(number, number + PARTITIONS) })
    for (const each of sent) assert.equal(each.baseOffset, `${number / PARTITIONS}`)
  }
  await returned()
  await neverBack()
  await awaitCommitted(topic, topic, 1200, member)
  await member.stop()
  assert.equal(numbers.count, 1200)
  await producer.disconnect()

  const again = new Numbers()
  const reader = await join('js-again', topic, again)
  await until('all to be read again', () => again.count === 1200)
  await reader.stop()
}

await admin.connect()
await impatient.connect()
for (const check of [checkProduce, checkGroups, checkTopics, checkOffsets, checkCrash]) {
  const started = Date.now()
  await check()
  console.log(`${check.name}: ${Date.now() - started} ms`)
}
await admin.disconnect()
await impatient.disconnect()
