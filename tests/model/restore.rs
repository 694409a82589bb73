//! Restores: a copy of the database, and the way back to the copy after time has passed and functions have bet. The database
//! loses the jobs made since; Purple Flea keeps their bets.

use super::world::World;
use std::{fmt, time::Duration};

/// A copy of the database.
pub(super) struct Copy {
    /// When an operator took the copy.
    at: Duration,
    /// Whether a pause has ended since: functions may have bet on the jobs that the pause held back.
    pub(super) let_go: bool,
    /// How many agents had come by then.
    pub(super) newcomers: u32,
}

/// How the database is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In place, as `pg_restore --clean` does. The database notices.
    InPlace,
    /// By a snapshot of the disk. The database cannot notice, and an operator tells it.
    Snapshot,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InPlace => "in place",
            Self::Snapshot => "as a snapshot of the disk",
        })
    }
}

impl Copy {
    pub(super) async fn take(world: &World<'_>, newcomers: u32) -> Self {
        let _turn = world.turn_alone().await;
        world.trace(|| "a copy is taken".to_owned());
        world.database.run("select model.copy()").await;
        Self { at: world.schedule.now(), let_go: false, newcomers }
    }

    /// Goes back to the copy.
    pub(super) async fn restore(&self, way: Way, world: &World<'_>) {
        let _turn = world.turn_alone().await;
        world.trace(|| format!("the database is restored: {way:?}"));
        let passed = i64::try_from((world.schedule.now() - self.at).as_millis()).unwrap();
        let snapshot = way == Way::Snapshot;
        let lost: Vec<String> =
            world.database.one("select model.go_back($1, $2)", &[&passed, &snapshot]).await;
        world.forgotten.borrow_mut().extend(lost);
        if snapshot {
            world.database.run("select purple_flea.declare_restore('model')").await;
        }
        world.claims.await_confirmation();
    }
}

/// Confirms a restore, as an operator does: functions may bet on some jobs again, and look up others first.
pub(super) async fn confirm(world: &World<'_>, nothing_lost: bool, paused_too: bool) {
    let _turn = world.turn_alone().await;
    let sql = format!("select purple_flea.confirm_restore({nothing_lost}, 'model', {paused_too})");
    world.trace(|| sql.clone());
    world.database.run(&sql).await;
    world.claims.confirm();
}

/// Fails over without a loss. The database does not know by itself that it lost nothing.
pub(super) async fn fail_over(world: &World<'_>) {
    let turn = world.turn_alone().await;
    world.database.run("select purple_flea.declare_restore('model: a failover')").await;
    world.claims.await_confirmation();
    drop(turn);
    confirm(world, true, false).await;
}

/// Releases jobs that a restore made unknown and that Purple Flea does not have: with one call, if no other job was looked up
/// in vain.
pub(super) async fn release(world: &World<'_>, references: &[String]) {
    if references.is_empty() {
        return;
    }
    let sql = "select count(*) from purple_flea.jobs where state = 'unknown' \
               and changed_by = 'restore' \
               and reason in ('not_found', 'no_history')";
    let all: i64 = world.database.one(sql, &[]).await;
    if usize::try_from(all).unwrap() == references.len() {
        world.trace(|| format!("operator: release_restored, {references:?}"));
        world.database.run("select purple_flea.release_restored('model', '{not_found,no_history}')").await;
    } else {
        for reference in references {
            world.database.run(&format!("select purple_flea.release_job('{reference}', 'model')")).await;
        }
    }
}
