//! Groups of many members: no request walks all of them but those that move all of them.

use super::*;

const MEMBERS: usize = 60;

/// How often all members were walked, but for the checks of this bench.
fn walks(bench: &mut Bench, ask: GroupAsk) -> usize {
    bench.sequence += 1;
    let asked = GroupRequest {
        group: Arc::from("g"),
        ask,
    };
    let before = bench.groups.groups["g"].members.walks.get();
    bench.groups.handle(
        bench.now,
        &bench.settings,
        request(bench.sequence),
        asked,
        &bench.catalog,
    );
    let walks = bench.groups.groups["g"].members.walks.get() - before;
    bench.drain();
    walks
}

#[test]
fn requests_of_a_stable_group_walk_nobody() {
    let mut bench = Bench::new();
    let ids = bench.stable(MEMBERS);
    for id in &ids[1..] {
        let heartbeat = GroupAsk::Heartbeat(membership(id, 1));
        assert_eq!(walks(&mut bench, heartbeat), 0);
        let commit = commit(membership(id, 1), &[(0, 5), (1, 6)]);
        assert_eq!(walks(&mut bench, commit), 0);
        assert_eq!(walks(&mut bench, sync(id, 1, Vec::new())), 0);
        assert_eq!(walks(&mut bench, GroupAsk::Join(join(id))), 0);
    }
    assert_eq!(walks(&mut bench, GroupAsk::FetchOffsets(None)), 0);
}

#[test]
fn a_rebalance_walks_everyone_when_it_begins_and_when_it_ends() {
    let mut bench = Bench::new();
    let ids = bench.stable(MEMBERS);
    assert!(walks(&mut bench, leave(&ids[0])) > 0, "it begins");
    for id in &ids[1..MEMBERS - 1] {
        assert_eq!(walks(&mut bench, GroupAsk::Join(join(id))), 0);
    }
    let asked = JoinGroup {
        id_first: true,
        ..join("")
    };
    assert_eq!(walks(&mut bench, GroupAsk::Join(asked)), 0);
    assert_eq!(walks(&mut bench, leave(&ids[1])), 0, "the leader goes");
    let last = GroupAsk::Join(join(&ids[MEMBERS - 1]));
    assert_eq!(walks(&mut bench, last), 0, "an id is awaited");
    bench.pass_ms(SESSION_MS);
    assert_eq!(bench.standing(), Some(GroupStanding::CompletingRebalance));
    for id in &ids[3..] {
        assert_eq!(walks(&mut bench, sync(id, 2, Vec::new())), 0);
    }
    assert!(
        walks(&mut bench, sync(&ids[2], 2, Vec::new())) > 0,
        "all get theirs"
    );
}

/// Kafka's consumers commit again and again, but some only what moved: an offset may be older than
/// its time for as long as its topic is read.
#[test]
fn offsets_in_their_time_are_looked_through_without_their_members() {
    let mut bench = Bench::new();
    let ids = bench.stable(MEMBERS);
    let offsets = [(0, 5), (1, 6), (2, 7)];
    bench.submit(commit(membership(&ids[1], 1), &offsets));
    let sweep = |bench: &mut Bench| {
        let walks = |bench: &Bench| bench.groups.groups["g"].members.walks.get();
        let before = walks(bench);
        bench
            .groups
            .sweep(bench.now, &bench.settings, &bench.catalog);
        let walked = walks(bench) - before;
        bench.drain();
        walked
    };
    assert_eq!(sweep(&mut bench), 0);
    assert_eq!(bench.logged["g"].offsets.len(), 3);
    bench.now.wall_ms += 8 * 24 * 60 * 60 * 1_000;
    assert_eq!(sweep(&mut bench), 1);
    assert_eq!(bench.logged["g"].offsets.len(), 2, "nobody reads `u`");
}
