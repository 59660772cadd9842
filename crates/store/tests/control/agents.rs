//! Pools, their tokens and their agents.

use terrapool_model::access::PoolAccess;
use terrapool_model::agent_status::AgentStatus;
use terrapool_model::job::Phase;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_model::times::Times;
use terrapool_protocol::health::{Health, Room};
use terrapool_store::agents::{self, AgentError, Ping};
use terrapool_store::error::StoreError;
use terrapool_store::page::Page;
use terrapool_store::pools::{self, NewPool, PoolChange, PoolError, PoolFilter, PoolSettings};
use terrapool_store::{agent_tokens, host_memory, values};

use crate::on_both;
use crate::support::{World, command};

async fn a_process_that_registers_twice_keeps_its_session_and_a_newer_one_gets_the_next(world: &World) {
    let first = world.register("one", "nonce-1").await;
    let again = world.register("one", "nonce-1").await;
    assert_eq!((&first.id, first.session), (&again.id, again.session));
    let newer = world.register("one", "nonce-2").await;
    assert_eq!((&newer.id, newer.session), (&first.id, first.session + 1));
    let other = world.register("two", "nonce-1").await;
    assert_ne!(other.id, first.id);
}

async fn what_people_see_of_an_agent_follows_its_last_ping(world: &World) {
    let agent = world.register("one", "nonce-1").await;
    let times = Times::default();
    let now = agent.last_ping_at + Millis::from_seconds(1);
    assert_eq!(agent.status(now, &times), AgentStatus::Idle);
    let run = world.create(world.new_run()).await;
    world.hold(&run.id, Phase::Plan, &agent.id).await;
    let agent = agents::get(&mut world.read().await, &agent.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(agent.status(now, &times), AgentStatus::Busy);
    let count = agents::count(&mut world.read().await, &world.pool, now, &times)
        .await
        .unwrap();
    assert_eq!(count, 1);
    let later = Timestamp(agent.last_ping_at.0 + 1000);
    let ping = Ping {
        agent: agent.id.clone(),
        session: agent.session,
        at: later,
        capacity: agent.capacity,
        draining: true,
        health: Some(Health {
            driver_answers: true,
            clock_ahead_seconds: Some(3),
            ..Health::default()
        }),
    };
    command!(world, StoreError, [pings = vec![ping]], |tx| agents::flush_pings(
        tx, &pings
    )
    .await)
    .unwrap();
    let agent = agents::get(&mut world.read().await, &agent.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((agent.last_ping_at, agent.draining), (later, true));
    assert_eq!(agent.health.unwrap().clock_ahead_seconds, Some(3));
}

async fn the_last_hour_of_a_hosts_memory_is_kept_minute_by_minute(world: &World) {
    let agent = world.register("one", "nonce-1").await;
    let start = Timestamp(agent.last_ping_at.0 - agent.last_ping_at.0 % 60_000 + 60_000);
    let ping = |second: i64, used: u64| Ping {
        agent: agent.id.clone(),
        session: agent.session,
        at: Timestamp(start.0 + second * 1000),
        capacity: agent.capacity,
        draining: false,
        health: Some(Health {
            memory: Some(Room {
                free_mb: 16_000 - used,
                total_mb: 16_000,
            }),
            ..Health::default()
        }),
    };
    let last = Timestamp(start.0 + 245_000);
    let pings = vec![
        ping(0, 10),
        ping(30, 40),
        ping(59, 20),
        ping(125, 50),
        ping(245, 60),
    ];
    command!(world, StoreError, [pings = pings], |tx| agents::flush_pings(
        tx, &pings
    )
    .await)
    .unwrap();
    let seen = async |until: Timestamp| {
        host_memory::until(&mut world.read().await, &agent.id, until)
            .await
            .unwrap()
    };
    assert_eq!(seen(last).await, [40, 40, 50, 50, 60]);

    // An hour later the first minutes are not shown, and are removed.
    let later = vec![ping(3600, 70)];
    let last = later[0].at;
    command!(world, StoreError, [pings = later], |tx| agents::flush_pings(
        tx, &pings
    )
    .await)
    .unwrap();
    assert_eq!(seen(last).await.first(), Some(&50));
    let removed = command!(world, StoreError, [], |tx| host_memory::forget(tx).await).unwrap();
    assert_eq!(removed, 1);
    assert_eq!(seen(last).await.last(), Some(&70));
}

async fn only_agents_that_are_not_alive_are_deleted(world: &World) {
    let agent = world.agent("one").await;
    let delete = async || {
        command!(world, AgentError, [id = agent.clone()], |tx| {
            agents::delete(tx, &id, &Times::default()).await
        })
    };
    assert!(matches!(
        delete().await,
        Err(AgentError::Alive(AgentStatus::Idle))
    ));
    command!(world, StoreError, [id = agent.clone()], |tx| agents::exited(
        tx, &id, 1
    )
    .await)
    .unwrap();
    delete().await.unwrap();
    assert!(matches!(delete().await, Err(AgentError::NotFound)));
}

async fn silent_agents_are_removed_unless_they_hold_a_job(world: &World) {
    let (idle, busy) = (world.agent("idle").await, world.agent("busy").await);
    let run = world.create(world.new_run()).await;
    world.hold(&run.id, Phase::Plan, &busy).await;
    command!(world, StoreError, [], |tx| {
        tx.execute("UPDATE agents SET last_ping_at = 1", values![]).await
    })
    .unwrap();
    let removed = command!(world, StoreError, [], |tx| {
        agents::remove_silent(tx, Millis::from_seconds(60)).await
    })
    .unwrap();
    assert_eq!(removed, 1);
    assert!(
        agents::get(&mut world.read().await, &idle)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        agents::get(&mut world.read().await, &busy)
            .await
            .unwrap()
            .is_some()
    );
}

fn pool(world: &World, name: &str, access: PoolAccess) -> NewPool {
    NewPool {
        organization_id: world.organization.clone(),
        name: name.to_owned(),
        access,
        settings: PoolSettings::default(),
    }
}

async fn pools_keep_their_lists_and_are_found_by_them(world: &World) {
    let access = PoolAccess {
        allowed_workspaces: [world.workspace.clone()].into(),
        allowed_projects: [world.project.clone()].into(),
        ..PoolAccess::default()
    };
    let new = pool(world, "a_100%", access.clone());
    let made = command!(world, StoreError, [new = new.clone()], |tx| pools::create(
        tx, &new
    )
    .await)
    .unwrap();
    assert_eq!(made.access, access);
    let twice = command!(world, StoreError, [new = new], |tx| pools::create(tx, &new).await);
    assert!(matches!(twice, Err(StoreError::Conflict)));
    let new = pool(world, "hidden", PoolAccess::default());
    command!(world, StoreError, [new = new], |tx| pools::create(tx, &new).await).unwrap();
    let names = async |filter: PoolFilter| -> Vec<String> {
        let listed = pools::list(
            &mut world.read().await,
            &world.organization,
            &filter,
            &Page::default(),
        )
        .await
        .unwrap();
        assert_eq!(listed.total, listed.items.len() as u64);
        listed.items.into_iter().map(|pool| pool.name).collect()
    };
    assert_eq!(names(PoolFilter::default()).await, ["a_100%", "hidden", "pool"]);
    let query = PoolFilter {
        query: Some("A_1".to_owned()),
        ..PoolFilter::default()
    };
    assert_eq!(names(query).await, ["a_100%"]);
    let allowed = PoolFilter {
        allowed_workspace: Some("app".to_owned()),
        ..PoolFilter::default()
    };
    assert_eq!(
        names(allowed).await,
        ["a_100%", "pool"],
        "named, or open to everybody"
    );
    let change = PoolChange {
        allowed_workspaces: Some(Default::default()),
        ..PoolChange::default()
    };
    let changed = command!(world, PoolError, [id = made.id.clone(), change = change], |tx| {
        pools::update(tx, &id, &change).await
    })
    .unwrap();
    assert!(changed.access.allowed_workspaces.is_empty());
    assert_eq!(
        changed.access.allowed_projects, access.allowed_projects,
        "what is not named stays"
    );
}

async fn a_pool_in_use_is_not_deleted(world: &World) {
    let run = world.create(world.new_run()).await;
    let delete = async || {
        command!(world, PoolError, [id = world.pool.clone()], |tx| pools::delete(
            tx, &id
        )
        .await)
    };
    let used = delete().await.unwrap_err();
    assert!(used.to_string().contains(run.id.as_str()), "{used}");
    world.cancel(&run.id).await.unwrap();
    delete().await.unwrap();
    assert!(matches!(delete().await, Err(PoolError::NotFound)));
}

async fn there_is_one_shared_pool(world: &World) {
    let one = command!(world, StoreError, [], |tx| pools::shared(tx).await).unwrap();
    let two = command!(world, StoreError, [], |tx| pools::shared(tx).await).unwrap();
    assert_eq!(one, two);
    assert_eq!(one.organization_id, None);
}

async fn a_revoked_token_is_not_valid_and_not_listed(world: &World) {
    let token = command!(world, StoreError, [pool = world.pool.clone()], |tx| {
        agent_tokens::create(tx, &pool, b"hash", "test", None, None).await
    })
    .unwrap();
    assert_eq!(token.last_used_at, None);
    command!(world, StoreError, [id = token.id.clone()], |tx| {
        agent_tokens::used(tx, &id).await
    })
    .unwrap();
    let found = agent_tokens::by_hash(&mut world.read().await, b"hash")
        .await
        .unwrap()
        .unwrap();
    assert!(found.last_used_at.is_some() && found.is_valid(found.created_at));
    let revoke = async || {
        command!(world, StoreError, [id = token.id.clone()], |tx| {
            agent_tokens::revoke(tx, &id).await
        })
        .unwrap()
    };
    assert!(revoke().await);
    assert!(!revoke().await);
    let found = agent_tokens::by_hash(&mut world.read().await, b"hash")
        .await
        .unwrap()
        .unwrap();
    assert!(!found.is_valid(found.created_at));
    let listed = agent_tokens::list(&mut world.read().await, &world.pool, &Page::default())
        .await
        .unwrap();
    assert!(listed.items.iter().all(|listed| listed.id != token.id));
}

on_both!(
    a_process_that_registers_twice_keeps_its_session_and_a_newer_one_gets_the_next,
    what_people_see_of_an_agent_follows_its_last_ping,
    the_last_hour_of_a_hosts_memory_is_kept_minute_by_minute,
    only_agents_that_are_not_alive_are_deleted,
    silent_agents_are_removed_unless_they_hold_a_job,
    pools_keep_their_lists_and_are_found_by_them,
    a_pool_in_use_is_not_deleted,
    there_is_one_shared_pool,
    a_revoked_token_is_not_valid_and_not_listed,
);
