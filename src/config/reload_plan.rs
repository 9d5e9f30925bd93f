//! What a new configuration changes that a running server can carry out.

use super::difference::{
    Difference, NewRates, NewRights, difference, rates_that_differ, rights_that_differ, served,
    without_rights,
};
use super::export::{ExportConfig, ExportDefaults};
use super::export_uri::ExportUri;
use super::rate::TenantConfig;
use super::resolve::Config;
use super::settings::Settings;

/// All that a reload does, as a whole or not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct ReloadPlan {
    /// For people.
    pub difference: Difference,
    /// Names of exports that are to be served no more.
    pub removed: Vec<String>,
    /// Exports that come, or take the place of the ones of their names.
    pub(crate) wanted: Vec<ExportConfig>,
    /// Of exports that stay.
    pub(crate) rights: NewRights,
    /// Of exports that stay.
    pub(crate) rates: NewRates,
    pub(crate) tenants: Vec<TenantConfig>,
    pub(crate) defaults: ExportDefaults,
    /// What is in force when it was carried out.
    pub settings: Box<Settings>,
}

/// The plan that leads from `old` to `new`, which resolves to `config`; `None` if that needs a restart.
pub fn reload_plan(old: &Settings, new: &Settings, config: &Config) -> Option<ReloadPlan> {
    let beside_rights = difference(&without_rights(old), &without_rights(new));
    let Difference { added, removed, changed, settings } = &beside_rights;
    if !settings.is_empty() {
        return None;
    }
    let example = [ExportConfig::example()];
    let of = |settings: &Settings, names: &[String]| -> Option<Vec<ExportConfig>> {
        let exports = served(settings, &example);
        // Stores go by their URIs, so they are not found by name.
        names.iter().map(|name| exports.iter().find(|of| of.name == *name && is_live(of)).cloned()).collect()
    };
    of(old, removed)?;
    of(old, changed)?;
    of(new, changed)?;
    of(new, added)?;
    let is_wanted = |name: &String| added.contains(name) || changed.contains(name);
    let wanted = config.exports.iter().filter(|export| is_wanted(&export.name) && is_live(export));
    let mut rights = rights_that_differ(old, new);
    rights.retain(|(name, uri, _)| !is_wanted(name) || is_from_the_start(uri));
    let mut told = beside_rights.clone();
    let (mut rates, stores) = rates_that_differ(old, new);
    if !stores.is_empty() {
        // Their images have theirs from the start on.
        return None;
    }
    rates.retain(|(name, _)| !is_wanted(name));
    let others = rights.iter().map(|(name, ..)| name).chain(rates.iter().map(|(name, _)| name));
    for name in others {
        if !told.changed.contains(name) {
            told.changed.push(name.clone());
        }
    }
    Some(ReloadPlan {
        removed: removed.clone(),
        wanted: wanted.cloned().collect(),
        rights,
        rates,
        tenants: new.tenants.clone(),
        defaults: config.defaults.clone(),
        settings: Box::new(new.clone()),
        difference: told,
    })
}

/// Whether it can come and go while the server runs. An image comes and goes with its store, which is opened
/// at the start, and then the broker is told which commands it may start.
fn is_live(export: &ExportConfig) -> bool {
    !is_from_the_start(&export.uri)
}

/// Whether it is there from the start of the server to its end: images, and what commands serve.
pub(crate) fn is_from_the_start(uri: &ExportUri) -> bool {
    match uri {
        ExportUri::Image(_) | ExportUri::Command(_) => true,
        ExportUri::Fault { inner, .. } => is_from_the_start(inner),
        ExportUri::File { .. }
        | ExportUri::Memory { .. }
        | ExportUri::Null { .. }
        | ExportUri::Remote(_)
        | ExportUri::Application { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn plan(old: &str, new: &str) -> Option<ReloadPlan> {
        let machine = Machine { cpus: vec![0], parallelism: 1, memory: 8 << 30, open_files: 1 << 20 };
        let (old, new) = (Settings::from_toml(old).unwrap(), Settings::from_toml(new).unwrap());
        let config = Config::resolve(new.clone(), &machine).unwrap();
        reload_plan(&old, &new, &config)
    }

    fn export(name: &str, rest: &str) -> String {
        format!("[[export]]\nname = \"{name}\"\n{rest}\n")
    }

    #[test]
    fn exports_come_go_and_change_and_get_other_rights() {
        let old = ["a", "b", "c"].map(|name| export(name, "uri = \"mem:1M\"")).concat();
        let new = format!(
            "allow = \"uid=7\"\nlisted = \"never\"\n{}{}{}{}",
            export("a", "uri = \"mem:2M\""),
            export("b", "uri = \"mem:1M\""),
            export("d", "uri = \"/srv/d\"\nread-only = true\nallow = []"),
            export("e", "uri = \"mem:1M\"")
        );
        let plan = plan(&old, &new).unwrap();
        assert_eq!(plan.removed, ["c"]);
        let wanted: Vec<_> = plan.wanted.iter().map(|export| (&*export.name, export.read_only)).collect();
        assert_eq!(wanted, [("a", false), ("d", true), ("e", false)]);
        let rights: Vec<_> = plan.rights.iter().map(|(name, ..)| &**name).collect();
        assert_eq!(rights, ["b"]);
        assert!(plan.wanted.iter().all(|export| export.rights.allow.is_some()), "the defaults are for all");
        assert!(plan.wanted[1].rights.allow != plan.wanted[2].rights.allow, "its own win");
        assert_eq!(
            (&plan.difference.added[..], &plan.difference.changed[..]),
            (&["d".to_owned(), "e".to_owned()][..], &["a".to_owned(), "b".to_owned()][..])
        );
        assert!(plan.difference.settings.is_empty());
        assert_eq!(plan.defaults.rights.listed, Some(crate::rights::Listing::Never));
    }

    #[test]
    fn what_belongs_to_the_process_or_to_a_store_needs_a_restart() {
        let one = export("a", "uri = \"mem:1M\"");
        assert_eq!(plan(&one, &format!("[server]\nslow = \"1s\"\n{one}")), None);
        for image in [export("b", "uri = \"store:/srv/s/b\""), export("", "uri = \"store:/srv/s\"")] {
            assert_eq!(plan(&one, &format!("{one}{image}")), None, "{image}");
            assert_eq!(plan(&format!("{one}{image}"), &one), None, "{image}");
        }
        let image = export("b", "uri = \"store:/srv/s/b\"");
        let both =
            plan(&format!("{one}{image}"), &format!("{image}{}", export("c", "uri = \"null:1M\""))).unwrap();
        assert_eq!(
            (both.removed, both.wanted.len()),
            (vec!["a".to_owned()], 1),
            "an image that stays hinders nothing"
        );
        let same = plan(&one, &one).unwrap();
        assert!(same.removed.is_empty() && same.wanted.is_empty() && same.rights.is_empty());
    }

    #[test]
    fn the_example_goes_when_an_export_comes() {
        let plan = plan("", &export("a", "uri = \"mem:1M\"")).unwrap();
        assert_eq!(plan.removed, [""]);
    }
}
