//! All runs of an organization.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_store::overview::{self, RunFilter};

use super::{RunRow, rows};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::{Chip, Paging, with_query};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "runs/list.html")]
struct ListPage {
    shell: Shell,
    base: String,
    organization: String,
    query: String,
    who: String,
    pools: Vec<(String, String)>,
    chosen_pool: String,
    filtered: bool,
    chips: Vec<Chip>,
    runs: Vec<RunRow>,
    paging: Paging,
}

/// The chips: word, picture, value in the address, statuses.
const CHIPS: [(&str, Option<&str>, &str, &[&str]); 6] = [
    ("All", None, "", &[]),
    (
        "Needs confirmation",
        Some("ask"),
        "ask",
        &["planned", "planned_and_saved"],
    ),
    ("Active", Some("run"), "active", &["planning", "applying"]),
    (
        "Waiting",
        Some("clock"),
        "waiting",
        &["pending", "plan_queued", "apply_queued"],
    ),
    ("Errored", Some("bad"), "errored", &["errored", "force_canceled"]),
    ("Applied", Some("ok"), "applied", &["applied"]),
];

/// `GET /app/:org/runs`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::Read)
        .await?;
    let value = |name: &str| params.get(name).unwrap_or_default().to_owned();
    let (query, status, pool, who) = (value("q"), value("status"), value("pool"), value("who"));
    let path = place.address("/runs");
    let filters = [
        ("q", query.as_str()),
        ("pool", pool.as_str()),
        ("who", who.as_str()),
        ("status", status.as_str()),
    ];
    let paging = Paging::new(&params, &path, &filters, "newest first");
    let statuses = CHIPS
        .iter()
        .find(|(_, _, value, _)| *value == status)
        .map_or(&[][..], |(_, _, _, statuses)| statuses);
    let filter = RunFilter {
        statuses: statuses.to_vec(),
        pool: pool.parse().ok(),
        text: Some(query.clone()).filter(|query| !query.is_empty()),
        who: Some(who.clone()).filter(|who| !who.is_empty()),
        sight: place.sight.clone(),
        ..RunFilter::default()
    };
    let organization = &place.organization.id;
    let listed = overview::list_runs(&mut connection, organization, &filter, &paging.page).await?;
    let mut pools: Vec<(String, String)> = overview::pool_names(&mut connection, organization)
        .await?
        .into_iter()
        .map(|(id, name)| (id.to_string(), name))
        .collect();
    pools.sort_by(|one, two| one.1.cmp(&two.1));
    let chip = |(word, icon, value, _): &(&'static str, Option<&'static str>, &str, &[&str])| Chip {
        word,
        icon: *icon,
        count: None,
        address: with_query(
            &path,
            &[("q", &query), ("pool", &pool), ("who", &who), ("status", value)],
        ),
        current: *value == status,
    };
    let page = ListPage {
        shell: place.shell(Section::Runs, "Runs"),
        base: place.address(""),
        organization: place.organization.name.clone(),
        chips: CHIPS.iter().map(chip).collect(),
        runs: rows(&mut connection, &place, &listed.items, true, app.now()).await?,
        filtered: filters.iter().any(|(_, value)| !value.is_empty()),
        paging: paging.counted(listed.total),
        query,
        who,
        pools,
        chosen_pool: pool,
    };
    html(&page)
}
