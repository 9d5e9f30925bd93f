//! Exports come, go and change while clients are there: one at a time by the control socket, or all of a plan
//! by a reload.
//!
//! What may fail or take its time comes first: exports are opened, conditions and names are looked at. Then
//! all is carried out in one step without a wait, which cannot fail. One change is prepared at a time, so
//! what was looked at still holds then.
//!
//! An export that changes is a new one, which takes the old one's name. If its bytes stay where they are, the
//! clients of the old one go on. Otherwise they end as with a soft removal.

mod condition;
mod opening;
mod refusal;
mod resizing;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::catalogue::Entry;
use super::events::EventKind;
use super::file_opener::OpenFiles;
use super::observe::collector::Collector;
use super::plane::Plane;
use super::retire::retire;
use super::served::{added_view, info_of};
use super::stores::Stores;
use crate::backend::Export;
use crate::config::export_change::{ExportChange, changed_tenant};
use crate::config::reload_plan::{ReloadPlan, is_from_the_start};
use crate::config::{ExportConfig, ExportDefaults, ExportRates, Weight};
use crate::control::tenants::TenantRates;
use crate::rights::Rights;
use crate::shard::Removal;
pub(super) use condition::Condition;
pub(super) use refusal::LiveRefusal;
pub(super) use resizing::ResizeWish;

/// Exports at the same time, with those that came while the server runs.
const MOST_EXPORTS: usize = 100_000;
/// How long a client of the control socket waits for connections that are cut off.
const CUT_OFF_TIME: Duration = Duration::from_secs(5);

/// What changes the exports of a server that runs.
pub(super) struct Live {
    stores: Rc<Stores>,
    collector: Option<Rc<Collector>>,
    opener: Option<Box<dyn OpenFiles>>,
    defaults: RefCell<ExportDefaults>,
    /// One change is prepared at a time.
    pub(super) turn: Mutex<()>,
}

/// How a change of an export ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Added,
    /// Another one has its name.
    Replaced,
    /// It was changed where it is, which no client notices.
    InPlace,
    /// It is as it was.
    Nothing,
}

/// An export that has only to get its name.
struct PreparedExport {
    wanted: ExportConfig,
    export: Arc<Export>,
    /// Its bytes are those of the export that has the name.
    stays: bool,
}

impl Live {
    pub(super) fn new(
        stores: &Rc<Stores>,
        collector: Option<Rc<Collector>>,
        opener: Option<Box<dyn OpenFiles>>,
        defaults: ExportDefaults,
    ) -> Rc<Self> {
        let (stores, turn) = (Rc::clone(stores), Mutex::new(()));
        Rc::new(Self { stores, collector, opener, defaults: RefCell::new(defaults), turn })
    }

    pub(super) fn plane(&self) -> &Rc<Plane> {
        &self.stores.plane
    }

    /// An export that can be changed here; none if there is none of that name.
    fn known(&self, name: &str) -> Result<Option<Rc<Entry>>, LiveRefusal> {
        let Some(entry) = self.plane().find(name) else { return Ok(None) };
        let is_image = entry.export().is_none_or(|export| export.is_image());
        if is_image { Err(LiveRefusal::Image(name.to_owned())) } else { Ok(Some(entry)) }
    }

    /// Adds an export, or changes one. With `is_whole` the change says all of it, and otherwise what is
    /// different.
    ///
    /// # Errors
    /// [`LiveRefusal`].
    pub(super) async fn change(
        &self,
        (name, condition): (&str, &Condition),
        change: &ExportChange,
        is_whole: bool,
    ) -> Result<(Rc<Entry>, Changed), LiveRefusal> {
        let _turn = self.turn.lock().await;
        if !is_whole
            && change.is_about_rates()
            && let Some(entry) = self.plane().find(name)
            && let Some(asked) = entry.wanted()
        {
            return self.change_rates((entry, asked), condition, change);
        }
        let known = self.known(name)?;
        if !condition.holds(known.as_ref().map(|entry| entry.tag()).as_deref()) {
            return Err(LiveRefusal::Condition(name.to_owned()));
        }
        let asked = known.as_ref().and_then(|entry| entry.wanted());
        let base = match (is_whole, &known) {
            (true, _) => None,
            (false, None) => return Err(LiveRefusal::Missing(name.to_owned())),
            (false, Some(_)) => asked.as_ref(),
        };
        let wanted = self.defaults.borrow().in_force(&change.of(name, base)?);
        if let (Some(entry), Some(asked)) = (&known, &asked) {
            if *asked == wanted {
                return Ok((Rc::clone(entry), Changed::Nothing));
            }
            let without = |of: &ExportConfig| ExportConfig {
                rights: Rights::default(),
                rates: ExportRates::default(),
                ..of.clone()
            };
            if without(asked) == without(&wanted) {
                self.check_tenant(&wanted.rates)?;
                self.set_rights(entry, &wanted);
                self.set_rates(entry, &wanted.rates);
                self.tell_of(EventKind::ExportChanged, name);
                return Ok((Rc::clone(entry), Changed::InPlace));
            }
        }
        let changed = if known.is_some() { Changed::Replaced } else { Changed::Added };
        let prepared = self.prepare(wanted, false).await?;
        Ok((self.put(prepared)?, changed))
    }

    /// Other rates of an export, which may be an image with a name of its own.
    fn change_rates(
        &self,
        (entry, asked): (Rc<Entry>, ExportConfig),
        condition: &Condition,
        change: &ExportChange,
    ) -> Result<(Rc<Entry>, Changed), LiveRefusal> {
        if !condition.holds(Some(&entry.tag())) {
            return Err(LiveRefusal::Condition(asked.name));
        }
        let wanted = change.of(&asked.name, Some(&asked))?;
        if wanted.rates == asked.rates {
            return Ok((entry, Changed::Nothing));
        }
        self.check_tenant(&wanted.rates)?;
        entry.set_wanted(&wanted);
        self.set_rates(&entry, &wanted.rates);
        self.tell_of(EventKind::ExportChanged, &wanted.name);
        Ok((entry, Changed::InPlace))
    }

    /// Other rates of a tenant, or another weight; what they are then.
    ///
    /// # Errors
    /// [`LiveRefusal`].
    pub(super) fn change_tenant(&self, name: &str, body: &[u8]) -> Result<TenantRates, LiveRefusal> {
        let plane = self.plane();
        let known = plane.tenants.rates(name).ok_or_else(|| LiveRefusal::NoTenant(name.to_owned()))?;
        let (limits, weight) = changed_tenant((known.limits, known.weight), body)?;
        plane.tenants.change(name, TenantRates { limits, weight });
        self.apply_tenants(|tenant| tenant == name);
        plane.events.tell(EventKind::TenantChanged, json!({ "tenant": name }));
        let weight_now = weight.unwrap_or(Weight::LEAST);
        tracing::info!(tenant = name, limits = %limits.to_json(), weight = %weight_now, "the rates of a tenant were changed");
        Ok(TenantRates { limits, weight })
    }

    /// Exports of tenants get the rates that those have now.
    fn apply_tenants(&self, is_it: impl Fn(&str) -> bool) {
        let plane = self.plane();
        for entry in plane.catalogue().iter() {
            let rates = entry.rates();
            if rates.tenant.as_deref().is_some_and(&is_it) {
                entry.set_rates(&rates, &plane.tenants);
            }
        }
        plane.rates_changed();
    }

    fn check_tenant(&self, rates: &ExportRates) -> Result<(), LiveRefusal> {
        match &rates.tenant {
            Some(name) if !self.plane().tenants.has(name) => Err(LiveRefusal::NoTenant(name.clone())),
            _ => Ok(()),
        }
    }

    fn set_rates(&self, entry: &Entry, rates: &ExportRates) {
        entry.set_rates(rates, &self.plane().tenants);
        self.plane().rates_changed();
    }

    /// Serves an export no more. Gives how many clients it had. `removed` is called when no client finds it.
    ///
    /// # Errors
    /// [`LiveRefusal`].
    pub(super) async fn remove(
        &self,
        (name, condition): (&str, &Condition),
        how: Removal,
        removed: impl FnOnce(),
    ) -> Result<usize, LiveRefusal> {
        let turn = self.turn.lock().await;
        let known = self.known(name)?.ok_or_else(|| LiveRefusal::Missing(name.to_owned()))?;
        if !condition.holds(Some(&known.tag())) {
            return Err(LiveRefusal::Condition(name.to_owned()));
        }
        let clients = known.clients();
        drop(known);
        let gone = self.take_away(name, how).ok_or_else(|| LiveRefusal::Missing(name.to_owned()))?;
        self.tell_of(EventKind::ExportRemoved, name);
        removed();
        drop(turn);
        if how == Removal::CutOff {
            // One whose device hangs goes later.
            let _late = timeout(CUT_OFF_TIME, gone).await;
        }
        Ok(clients)
    }

    /// Carries a plan out, as a whole or not at all; with `is_dry` it only sees whether that can be. The
    /// caller has the turn.
    ///
    /// # Errors
    /// [`LiveRefusal`].
    pub(super) async fn carry_out(&self, plan: &ReloadPlan, is_dry: bool) -> Result<(), LiveRefusal> {
        let is_added = |name: &String| plan.difference.added.contains(name);
        for wanted in plan.wanted.iter().filter(|wanted| is_added(&wanted.name)) {
            if self.known(&wanted.name)?.is_some() {
                return Err(LiveRefusal::Taken(wanted.name.clone()));
            }
        }
        let mut prepared = Vec::new();
        for wanted in &plan.wanted {
            prepared.push(self.prepare(wanted.clone(), true).await?);
        }
        let count = self.plane().catalogue().count() + prepared.len();
        if count.saturating_sub(plan.removed.len()) > MOST_EXPORTS {
            return Err(LiveRefusal::TooMany(MOST_EXPORTS));
        }
        prepared.iter().try_for_each(|prepared| self.look_again(prepared))?;
        if is_dry {
            return Ok(());
        }
        self.plane().tenants.set(&plan.tenants);
        for name in &plan.removed {
            // Whoever removed it at the control socket was quicker.
            if self.take_away(name, Removal::WithErrors).is_some() {
                self.tell_of(EventKind::ExportRemoved, name);
            }
        }
        prepared.into_iter().for_each(|prepared| drop(self.serve(prepared)));
        for (name, rates) in &plan.rates {
            if let Some(entry) = self.plane().find(name) {
                entry.set_rates(rates, &self.plane().tenants);
                if let Some(wanted) = entry.wanted() {
                    entry.set_wanted(&ExportConfig { rates: rates.clone(), ..wanted });
                }
            }
        }
        self.apply_tenants(|_| true);
        self.stores.set_rights(&plan.rights);
        for (name, _, rights) in &plan.rights {
            if let Some(entry) = self.plane().find(name)
                && let Some(wanted) = entry.wanted()
            {
                entry.set_wanted(&ExportConfig { rights: rights.clone(), ..wanted });
            }
        }
        self.defaults.replace(plan.defaults.clone());
        let rates = plan.rates.iter().map(|(name, _)| name);
        let changed: BTreeSet<_> = plan.rights.iter().map(|(name, ..)| name).chain(rates).collect();
        changed.into_iter().for_each(|name| self.tell_of(EventKind::ExportChanged, name));
        Ok(())
    }

    /// Opens an export, unless its bytes are served already under its name.
    /// `is_checked`: it names no tenant that is missing.
    async fn prepare(&self, wanted: ExportConfig, is_checked: bool) -> Result<PreparedExport, LiveRefusal> {
        let name = || wanted.name.clone();
        if is_from_the_start(&wanted.uri) {
            return Err(LiveRefusal::NeedsRestart(wanted.uri.to_string()));
        }
        if !is_checked {
            self.check_tenant(&wanted.rates)?;
        }
        if wanted.requires_tls && self.plane().encryption.is_none() {
            return Err(LiveRefusal::NoTls(name()));
        }
        let known = self.known(&wanted.name)?;
        if known.is_none() && self.stores.has_image(&wanted.name).await {
            return Err(LiveRefusal::Image(name()));
        }
        let of_known = known.as_ref().and_then(|entry| Some((entry.wanted()?, entry.export()?)));
        if let Some((asked, export)) = of_known
            && asked.uri == wanted.uri
        {
            if asked.read_only == wanted.read_only {
                return Ok(PreparedExport { export: Arc::clone(export), wanted, stays: true });
            }
            if let Some(export) = export.with_access(wanted.read_only) {
                return Ok(PreparedExport { export: Arc::new(export), wanted, stays: false });
            }
        }
        match opening::open(&wanted, self.opener.as_deref()).await {
            Ok(export) => Ok(PreparedExport { wanted, export, stays: false }),
            Err(why) => Err(LiveRefusal::NotOpened { name: name(), why }),
        }
    }

    fn put(&self, prepared: PreparedExport) -> Result<Rc<Entry>, LiveRefusal> {
        self.look_again(&prepared)?;
        if self.plane().catalogue().count() >= MOST_EXPORTS {
            return Err(LiveRefusal::TooMany(MOST_EXPORTS));
        }
        Ok(self.serve(prepared))
    }

    /// What may have come while an export was opened: an image of its name, the end of the server.
    fn look_again(&self, prepared: &PreparedExport) -> Result<(), LiveRefusal> {
        if self.plane().is_stopping() {
            return Err(LiveRefusal::Stopping);
        }
        self.known(&prepared.wanted.name).map(drop)
    }

    /// Gives an export its name, which another one may have until now.
    fn serve(&self, prepared: PreparedExport) -> Rc<Entry> {
        let how = if prepared.stays { Removal::WhenUnused } else { Removal::WithErrors };
        self.serve_with(prepared, how)
    }

    /// The same; `how`: what becomes of the clients of the other one.
    fn serve_with(&self, PreparedExport { wanted, export, .. }: PreparedExport, how: Removal) -> Rc<Entry> {
        let before = self.plane().find(&wanted.name);
        let is_new = before.is_none();
        drop(self.take_away(&wanted.name, how));
        let (plane, source) = (self.plane(), wanted.uri.to_string());
        let info = info_of((&wanted.name, &wanted.description), &source, &export, &plane.limits);
        plane.set_needs_tls(&wanted.name, wanted.requires_tls);
        let entry = plane.catalogue_mut().add_shared(info, export, source);
        let entry = entry.expect("nothing has the name any more");
        if let Some(before) = before {
            entry.share_limits(&before);
            if how == Removal::WhenUnused {
                entry.follow(&before);
            }
        }
        self.set_rights(&entry, &wanted);
        self.set_rates(&entry, &wanted.rates);
        if let Some(collector) = &self.collector {
            collector.added(&entry);
        }
        match is_new {
            true => self.plane().events.tell(EventKind::ExportAdded, added_view(&entry)),
            false => self.tell_of(EventKind::ExportChanged, &entry.info.name),
        }
        tracing::info!(export = entry.info.name, source = entry.source, "export added");
        entry
    }

    fn tell_of(&self, kind: EventKind, export: &str) {
        self.plane().events.tell(kind, json!({ "export": export }));
    }

    fn set_rights(&self, entry: &Entry, wanted: &ExportConfig) {
        entry.set_rights(&wanted.rights);
        entry.set_wanted(wanted);
        if !wanted.rights.are_open() {
            self.plane().set_has_rights(&wanted.rights);
        }
    }

    /// No client finds an export from now on, and a task sees to it that the shards give it up. What is given
    /// back ends when they have; none when there is no such export.
    fn take_away(&self, name: &str, how: Removal) -> Option<oneshot::Receiver<()>> {
        let entry = self.plane().catalogue_mut().remove(name)?;
        self.plane().forget_tls(name);
        tracing::info!(export = name, ?how, "export removed");
        let (plane, collector) = (Rc::clone(self.plane()), self.collector.clone());
        let (done, gone) = oneshot::channel();
        tokio_uring::spawn(async move {
            retire(&plane, collector.as_ref(), &entry, how).await;
            // Its files are closed when the last handshake that chose it has ended.
            drop(entry);
            // Nobody waits for it, perhaps.
            let _left = done.send(());
        });
        Some(gone)
    }
}
