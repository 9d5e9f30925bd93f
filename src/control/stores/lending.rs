//! A store goes to another process, with all that its images had open, or comes back from there.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, oneshot};
use tokio::time::timeout;

use super::offers::{Absence, Chosen, Stores};
use super::one::{OneStore, StoreOwner};
use crate::backend::Export;
use crate::config::ExportConfig;
use crate::control::catalogue::Entry;
use crate::control::retire::retire;
use crate::nbd::session::ExportInfo;
use crate::rights::Rights;
use crate::shard::Removal;
use crate::store::catalog::NodeName;
use crate::store::worker::StoreLoan;

/// What is done to the store has so long to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// An image that loses its place while it is opened is looked up again.
const TRIES: usize = 3;

/// A store that nothing is done to but what is done here.
pub(in crate::control) struct Lending<'a> {
    one: &'a OneStore,
    /// Nothing is merged, collected, opened or closed.
    _alone: [MutexGuard<'a, ()>; 3],
    /// Images with names of their own, which were closed.
    fixed: Vec<ClosedImage>,
    /// Images of which writes were lost.
    lost: Vec<NodeName>,
    /// None while the store is open here.
    loan: Option<StoreLoan>,
}

/// An export that was closed, to be opened again.
struct ClosedImage {
    node: NodeName,
    wanted: ExportConfig,
    info: ExportInfo,
    source: String,
    rights: Rights,
}

impl Stores {
    /// Where its stores are that another process could have.
    pub(in crate::control) fn lendable(&self) -> Vec<PathBuf> {
        self.all.iter().map(|one| one.of.store.path().to_owned()).collect()
    }

    /// Waits until nothing is done to a store, and writes back what its images have.
    ///
    /// # Errors
    /// A sentence: something goes on, or an image has lost writes.
    pub(in crate::control) async fn reserve(&self, at: usize) -> Result<Lending<'_>, String> {
        let one = self.all.get(at).ok_or("there is no such store")?;
        one.uploads.gives_way.set(true);
        let reserved = self.reserved(one).await;
        one.uploads.gives_way.set(reserved.is_ok());
        reserved
    }

    async fn reserved<'a>(&'a self, one: &'a OneStore) -> Result<Lending<'a>, String> {
        let path = one.of.store.path().display();
        let busy = |_| format!("something goes on in the store {path}: try again when it is done");
        // Work in the background ends for whoever waits.
        one.hurries.set(one.hurries.get() + 1);
        let alone = timeout(PATIENCE, async {
            // Now, while clients are served: an upload that reads what it is about to send may take its time.
            one.end_upload().await;
            [one.merging.lock().await, one.collecting.lock().await, one.turn.lock().await]
        });
        let alone = alone.await;
        one.hurries.set(one.hurries.get() - 1);
        let alone = alone.map_err(busy)?;
        let lending = Lending { one, _alone: alone, fixed: Vec::new(), lost: Vec::new(), loan: None };
        let open: Vec<_> = lending.entries(self).iter().filter_map(|entry| entry.export().cloned()).collect();
        let are_sound = one.ask(move |_| open.iter().all(|export| export.sync_ahead())).await;
        match are_sound {
            Ok(true) => Ok(lending),
            Ok(false) => Err(format!("an image of {path} has lost writes, which its clients are told here")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits while another process has a store and may give it back. Nobody knows meanwhile which images
    /// there are.
    pub(super) async fn until_here(&self) -> Result<(), Absence> {
        for one in &self.all {
            let mut owner = one.owner.subscribe();
            let owner = owner.wait_for(|owner| *owner != StoreOwner::Borrower).await;
            if *owner.expect("it is this server's") == StoreOwner::Successor {
                return Err(Absence::Moved);
            }
        }
        Ok(())
    }

    /// Gives an image that another process has served to this one's clients. Nobody's rights are asked.
    pub(in crate::control) async fn place_of(self: &Rc<Self>, name: &str) -> Option<Chosen> {
        for _ in 0..TRIES {
            let entry = match self.plane.find(name) {
                Some(entry) => entry,
                None => self.offer_unasked(&name.parse().ok()?).await?,
            };
            let chosen = Chosen::unasked(entry, self);
            if chosen.export().is_some() {
                return Some(chosen);
            }
            let (one, node, _) = self.find(name)?;
            match one.open(&node, &chosen, (&self.plane, self.collector())).await {
                Ok(true) => return Some(chosen),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(export = name, %error, "an image could not be opened");
                    return None;
                }
            }
        }
        None
    }

    async fn offer_unasked(&self, node: &NodeName) -> Option<Rc<Entry>> {
        for one in self.all.iter().filter(|one| !one.of.fixed.contains_key(node)) {
            let Some(how) = &one.of.all else { continue };
            if let Ok(Some(facts)) = one.facts(node).await {
                // A handshake may have been quicker.
                return self
                    .plane
                    .find(&node.to_string())
                    .or_else(|| one.offer(node, one.info(node, how, facts.size, &self.plane), &self.plane));
            }
        }
        None
    }
}

impl Lending<'_> {
    /// Its images that are open.
    pub(in crate::control) fn entries(&self, stores: &Stores) -> Vec<Rc<Entry>> {
        let is_of_it = |entry: &Rc<Entry>| {
            let stored = entry.export().and_then(|export| export.stored());
            stored.is_some_and(|(store, _)| Arc::ptr_eq(store, &self.one.of.store))
        };
        self.one.open_entries(&stores.plane).into_iter().filter(is_of_it).collect()
    }

    /// Closes it. No client has any of its images.
    ///
    /// # Errors
    /// A sentence; it has to be taken back.
    pub(in crate::control) async fn lend(&mut self, stores: &Stores) -> Result<(), String> {
        self.one.owner.send_replace(StoreOwner::Borrower);
        for entry in self.entries(stores) {
            let export = entry.export().expect("it is open");
            let node = export.stored().expect("it is of the store").1.clone();
            self.close(stores, node, entry).await?;
        }
        for node in self.one.places() {
            self.one.forget(&node, &stores.plane);
        }
        if !self.lost.is_empty() {
            return Err("an image has lost writes, which its clients are told here".to_owned());
        }
        self.one.end_upload().await;
        let (told, closed) = oneshot::channel();
        let lent = self.one.of.store.lend(move || {
            // Nobody waits for it when the server ends.
            let _heard = told.send(());
        });
        self.loan = Some(lent.map_err(|error| error.to_string())?);
        closed.await.map_err(|_dropped| "the store has failed".to_owned())
    }

    async fn close(&mut self, stores: &Stores, node: NodeName, entry: Rc<Entry>) -> Result<(), String> {
        let plane = &stores.plane;
        if let Some(wanted) = entry.wanted() {
            let (info, source, rights) = (entry.info.clone(), entry.source.clone(), entry.rights());
            self.fixed.push(ClosedImage { node: node.clone(), wanted, info, source, rights });
        } else {
            self.one.take_place(&node);
        }
        drop(plane.catalogue_mut().remove(&entry.info.name));
        retire(plane, stores.collector(), &entry, Removal::WhenUnused).await;
        let export = Arc::clone(entry.export().expect("it is open"));
        let name = entry.info.name.clone();
        drop(entry);
        let settled = self.one.ask(move |store| {
            let is_settled = export.settle_image(store);
            (is_settled, Arc::into_inner(export).is_some())
        });
        let (is_settled, is_closed) = settled.await.map_err(|error| error.to_string())?;
        if !is_settled {
            self.lost.push(node);
        }
        if is_closed { Ok(()) } else { Err(format!("the image {name} is still in use")) }
    }

    /// It is the other process's now.
    pub(in crate::control) fn give(self) {
        self.one.owner.send_replace(StoreOwner::Successor);
    }

    /// It is served here again, as it was.
    pub(in crate::control) async fn take_back(self, stores: &Rc<Stores>) {
        let Self { one, fixed, lost, loan, _alone } = self;
        if let Some(loan) = loan {
            loan.take_back();
        }
        for ClosedImage { node, wanted, info, source, rights } in fixed {
            let (served, of) = (Arc::clone(&one.of.store), wanted.clone());
            let has_lost_writes = lost.contains(&node);
            let again =
                one.ask(move |store| Export::open_again(store, &served, &node, (&of.uri, of.read_only)));
            let export = match again.await.map_err(|error| error.to_string()) {
                Ok(Ok(export)) => export,
                Ok(Err(error)) => {
                    tracing::error!(export = info.name, %error, "an image could not be opened again");
                    continue;
                }
                Err(error) => {
                    tracing::error!(export = info.name, error, "an image could not be opened again");
                    continue;
                }
            };
            if has_lost_writes {
                export.note_lost_writes();
            }
            let added = stores.plane.catalogue_mut().add(info, export, source);
            let Some(entry) = added else { continue };
            entry.set_rights(&rights);
            entry.set_wanted(&wanted);
            entry.set_rates(&wanted.rates, &stores.plane.tenants);
            if let Some(collector) = stores.collector() {
                collector.added(&entry);
            }
        }
        one.owner.send_replace(StoreOwner::This);
        one.uploads.gives_way.set(false);
        drop(_alone);
        for node in lost.into_iter().filter(|node| !one.of.fixed.contains_key(node)) {
            if let Some(chosen) = stores.place_of(&node.to_string()).await {
                chosen.export().expect("it is open").note_lost_writes();
            }
        }
        stores.tell_control_again();
    }
}
