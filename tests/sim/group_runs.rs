//! Groups of consumers through power cuts, kills, failed disks, broken connections and changing
//! numbers of cores; at the end they must come to rest.

use millrace_engine::limits::{EngineConfig, GroupSettings, SeededBug};
use millrace_storage::testing::{Dice, Stream};

use crate::clients::{Client, Role, TOPIC};
use crate::failure::{Checked, Failure, catching, ensure};
use crate::kafka::{self, Reply};
use crate::members::{COOPERATIVE, EAGER, Member, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};
use crate::seeds::each_seed;
use crate::world::{Remains, World};
use crate::world_runs::Run;

/// Machines before the last one.
const LIVES: u64 = 3;
/// The members: their group, and whether they are static.
const MEMBERS: [(&str, bool); 8] = [
    (EAGER, false),
    (EAGER, false),
    (EAGER, false),
    (EAGER, true),
    (COOPERATIVE, false),
    (COOPERATIVE, false),
    (COOPERATIVE, true),
    (COOPERATIVE, true),
];
/// Beside the timeouts of members, what a group that is left alone may take to come to rest,
/// milliseconds: the requests' own way, and the wait for more members.
const SLACK_MS: u64 = 3_000;
/// Steps of one machine: enough for members to find each other, and to lose each other again.
const STEPS_MAX: u64 = 12_000;
/// Seeds tried before a planted bug counts as overlooked.
const SEEDS_MAX: u64 = 100;

#[test]
fn groups_keep_their_promises_whatever_fails() {
    let mut total = Worth::default();
    let seeds = each_seed("groups", 60, |seed| {
        total.add(&live(Run::draw(seed), None)?);
        Ok(())
    });
    if seeds > 1 {
        println!("{total:?} over {seeds} seeds");
        let enough = total.generations > 10 * seeds
            && total.dealt > 5 * seeds
            && total.committed > 20 * seeds
            && total.told > 5 * seeds
            && total.refused > 10 * seeds;
        assert!(enough, "too little happened: {total:?}");
    }
}

#[test]
fn each_bug_planted_in_groups_is_found() {
    for bug in [
        SeededBug::CommitOfAnyGeneration,
        SeededBug::CommitBeforeDurable,
    ] {
        let found = (1..=SEEDS_MAX).find_map(|seed| {
            let failure = catching(|| live(Run::draw(seed), Some(bug)).map(|_| ())).err()?;
            Some((seed, failure))
        });
        let Some((seed, failure)) = found else {
            panic!("{bug:?} was overlooked in {SEEDS_MAX} seeds");
        };
        let first_line = failure.0.lines().next().unwrap_or_default();
        println!("{bug:?}: seed {seed}: {first_line}");
        if let Err(failure) = catching(|| live(Run::draw(seed), None).map(|_| ())) {
            panic!("{bug:?}: seed {seed} fails without it too: {failure}");
        }
    }
}

/// What a run did: a run in which nothing happened proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    generations: u64,
    dealt: u64,
    committed: u64,
    told: u64,
    refused: u64,
}

impl Worth {
    fn add(&mut self, run: &Self) {
        self.generations += run.generations;
        self.dealt += run.dealt;
        self.committed += run.committed;
        self.told += run.told;
        self.refused += run.refused;
    }
}

/// Lives through several machines, and lets the last one come to rest.
fn live(mut run: Run, bug: Option<SeededBug>) -> Checked<Worth> {
    run.engine = EngineConfig {
        groups: GroupSettings {
            session_timeout_ms_min: TIMEOUT_MS_MIN,
            initial_rebalance_delay_ms: 200,
            seeded_bug: bug,
            ..GroupSettings::default()
        },
        ..EngineConfig::default()
    };
    run.steps_max = STEPS_MAX;
    run.ends_at_commit = true;
    let mut remains = first_remains(&run);
    for life in 0..LIVES {
        let shards = run.cores_of(life, None);
        remains = run.one_life(remains, life, shards)?;
    }
    let shards = run.cores_of(LIVES, None);
    let mut world = run.start(remains, shards)?;
    world.disk.heal();
    come_to_rest(&mut world, run.partitions)?;
    for group in [EAGER, COOPERATIVE] {
        for partition in 0..run.partitions {
            check_committed(&mut world, group, partition)?;
        }
    }
    let groups = &world.history.groups;
    Ok(Worth {
        generations: groups.generations,
        dealt: groups.dealt,
        committed: groups.committed,
        told: groups.told,
        refused: groups.refused,
    })
}

fn first_remains(run: &Run) -> Remains {
    let mut dice = Dice::new(run.seed, Stream::Workload);
    let members = MEMBERS.iter().enumerate().map(|(number, kind)| {
        let member = Member::new(number, *kind, run.partitions, &mut dice);
        Client::new(number, Role::Member(member), run.partitions)
    });
    let members = members.collect();
    let mut remains = run.remains_of(members, dice);
    for (number, (group, _)) in MEMBERS.iter().enumerate() {
        remains.history.groups.stand(number, group, None);
    }
    remains
}

/// Left alone, every group is stable within a session timeout, for all who went are missed by then
/// wherever they stood, and stays so.
fn come_to_rest(world: &mut World, partitions: i32) -> Checked<()> {
    world.is_calm = true;
    world.history.groups.is_quiet = true;
    let until = world.now.boot.after_ms(TIMEOUT_MS_MAX + SLACK_MS);
    let at_rest = loop {
        if let Some(generations) = world.history.groups.settled(partitions) {
            break generations;
        }
        ensure!(
            world.now.boot < until,
            "a group does not come to rest: {}",
            world.all_clients()
        );
        ensure!(!world.is_poisoned(), "the log is poisoned on a sound disk");
        world.step()?;
    };
    let until = world.now.boot.after_ms(TIMEOUT_MS_MAX);
    while world.now.boot < until {
        world.step()?;
    }
    let later = world.history.groups.settled(partitions);
    ensure!(
        later.as_ref() == Some(&at_rest),
        "groups at rest in {at_rest:?} are in {later:?} later: {}",
        world.all_clients()
    );
    Ok(())
}

/// Asks what is committed, as somebody who is no member.
fn check_committed(world: &mut World, group: &'static str, partition: i32) -> Checked<()> {
    let begun = world.history.groups.now();
    let asked = kafka::groups::committed(1, group, (TOPIC, partition));
    let body = world.ask(&asked)?;
    match Reply(&body).offset_told() {
        Some((0, found)) => world.history.groups.tell(group, (partition, begun), found),
        other => Err(Failure(format!("{group}: telling offsets gave {other:?}"))),
    }
}
