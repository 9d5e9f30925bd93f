//! What changes between two configurations.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::export::ExportConfig;
use super::export_uri::ExportUri;
use super::rate::ExportRates;
use super::settings::Settings;
use crate::rights::Rights;

/// The exports by name, and the settings by the name of their flag.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Difference {
    /// Exports that are not served yet.
    pub added: Vec<String>,
    /// Exports that are served and are not in the new configuration.
    pub removed: Vec<String>,
    /// Exports that are in both, and not alike.
    pub changed: Vec<String>,
    /// Settings of the server, which need a restart. One that is set for the first time counts, even if it is
    /// set to its default.
    pub settings: Vec<&'static str>,
}

impl Difference {
    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Each thing that changes once, in an order that depends on nothing else.
pub fn difference(old: &Settings, new: &Settings) -> Difference {
    // What is served when nothing is said.
    let example = [ExportConfig::example()];
    let (of_old, of_new) = (by_name(old, &example), by_name(new, &example));
    let only = |here: &ByName<'_>, there: &ByName<'_>| {
        let names = here.keys().filter(|name| !there.contains_key(*name));
        names.cloned().map(Cow::into_owned).collect()
    };
    let changed = of_old.iter().filter(|(name, export)| of_new.get(*name).is_some_and(|of| of != *export));
    Difference {
        added: only(&of_new, &of_old),
        removed: only(&of_old, &of_new),
        changed: changed.map(|(name, _)| name.clone().into_owned()).collect(),
        settings: settings(old, new),
    }
}

/// The same settings, which say nothing of rights and rates.
pub(super) fn without_rights(settings: &Settings) -> Settings {
    let mut settings = Settings { rights: Rights::default(), tenants: Vec::new(), ..settings.clone() };
    for export in &mut settings.exports {
        (export.rights, export.rates) = (Rights::default(), ExportRates::default());
    }
    settings
}

/// For each export whose rates change, or those of its tenant, its name and its new ones.
pub(crate) type NewRates = Vec<(String, ExportRates)>;

/// The exports of `new` that had other rates, with their new ones; of stores with all their images the URIs,
/// since they have no names.
pub(super) fn rates_that_differ(old: &Settings, new: &Settings) -> (NewRates, Vec<String>) {
    let example = [ExportConfig::example()];
    let (of_old, of_new) = (by_name(old, &example), by_name(new, &example));
    let shared = |settings: &Settings, rates: &ExportRates| {
        let name = rates.tenant.as_deref()?;
        settings.tenants.iter().find(|tenant| tenant.name == name).map(|tenant| (tenant.limit, tenant.weight))
    };
    let is_other = |(name, export): &(&Cow<'_, str>, &&ExportConfig)| {
        let had = of_old.get(*name).map(|of| &of.rates);
        had != Some(&export.rates) || had.and_then(|had| shared(old, had)) != shared(new, &export.rates)
    };
    let changed = of_new.iter().filter(is_other);
    let (stores, named): (Vec<_>, Vec<_>) = changed.partition(|(_, export)| export.may_be_a_store());
    let named = named.into_iter().map(|(_, export)| (export.name.clone(), export.rates.clone()));
    (named.collect(), stores.into_iter().map(|(name, _)| name.clone().into_owned()).collect())
}

/// The exports of `new` that have other rights in `old`, or none there, and are no news but for them.
pub(super) fn rights_that_differ(old: &Settings, new: &Settings) -> NewRights {
    let example = [ExportConfig::example()];
    let (of_old, of_new) = (by_name(old, &example), by_name(new, &example));
    let rights = |settings: &Settings, export: &ExportConfig| export.rights.clone().or(&settings.rights);
    let all = of_new.iter().map(|(name, export)| {
        let had = of_old.get(name).map(|of_old| rights(old, of_old));
        (export, rights(new, export), had)
    });
    let changed = all.filter(|(_, rights, had)| had.as_ref() != Some(rights));
    changed.map(|(export, rights, _)| (export.name.clone(), export.uri.clone(), rights)).collect()
}

/// For each export whose rights change its name, its URI, and its new rights.
pub type NewRights = Vec<(String, ExportUri, Rights)>;

/// The exports that settings lead to.
pub(super) fn served<'a>(settings: &'a Settings, example: &'a [ExportConfig]) -> &'a [ExportConfig] {
    let is_example = settings.exports.is_empty() && !settings.all_are_gone;
    if is_example { example } else { &settings.exports }
}

type ByName<'a> = BTreeMap<Cow<'a, str>, &'a ExportConfig>;

/// Several stores may have no name: they go by their URIs.
fn by_name<'a>(settings: &'a Settings, example: &'a [ExportConfig]) -> ByName<'a> {
    let exports = served(settings, example);
    let name = |export: &'a ExportConfig| match export.may_be_a_store() {
        true => Cow::Owned(export.uri.to_string()),
        false => Cow::Borrowed(&*export.name),
    };
    exports.iter().map(|export| (name(export), export)).collect()
}

fn settings(old: &Settings, new: &Settings) -> Vec<&'static str> {
    // All fields by name: a new one that is forgotten here does not compile.
    let Settings {
        exports: _,
        tenants,
        all_are_gone: _,
        attach,
        listen,
        unix_access,
        shards,
        cpus,
        memory,
        max_request,
        pinned,
        busy_poll,
        pidfile,
        read_only,
        max_connections,
        device_depth,
        handshake_timeout,
        shutdown,
        log_format,
        admin,
        control,
        control_readers,
        allow_directories,
        slow,
        latency_log,
        no_histograms,
        user,
        sandbox,
        rights,
        tls,
    } = old;
    let differ = [
        ("attach", *attach != new.attach),
        ("unix, tcp", *listen != new.listen),
        ("unix-mode", unix_access.mode != new.unix_access.mode),
        ("unix-group", unix_access.group != new.unix_access.group),
        ("shards", *shards != new.shards),
        ("cpus", *cpus != new.cpus),
        ("memory", *memory != new.memory),
        ("max-request", *max_request != new.max_request),
        ("pinned", *pinned != new.pinned),
        ("busy-poll", *busy_poll != new.busy_poll),
        ("pidfile", *pidfile != new.pidfile),
        ("read-only", *read_only != new.read_only),
        ("max-connections", *max_connections != new.max_connections),
        ("device-depth", *device_depth != new.device_depth),
        ("handshake-timeout", *handshake_timeout != new.handshake_timeout),
        ("shutdown", *shutdown != new.shutdown),
        ("log-format", *log_format != new.log_format),
        ("admin", *admin != new.admin),
        ("control", *control != new.control),
        ("control-readers", *control_readers != new.control_readers),
        ("allow-directories", *allow_directories != new.allow_directories),
        ("slow", *slow != new.slow),
        ("latency-log", *latency_log != new.latency_log),
        ("no-histograms", *no_histograms != new.no_histograms),
        ("user", *user != new.user),
        ("sandbox", *sandbox != new.sandbox),
        ("allow", rights.allow != new.rights.allow),
        ("write", rights.write != new.rights.write),
        ("listed", rights.listed != new.rights.listed),
        ("tls", *tls != new.tls),
        ("tenant", *tenants != new.tenants),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(old: &str, new: &str) -> Difference {
        difference(&Settings::from_toml(old).unwrap(), &Settings::from_toml(new).unwrap())
    }

    #[test]
    fn stores_without_a_name_go_by_their_uris() {
        let stores = |paths: &[&str]| -> String {
            paths.iter().map(|path| format!("[[export]]\nname = \"\"\nuri = \"store:{path}\"\n")).collect()
        };
        let found = of(&stores(&["/a", "/b"]), &stores(&["/a", "/c"]));
        assert_eq!((found.added, found.removed), (vec!["store:/c".to_owned()], vec!["store:/b".to_owned()]));
    }

    const ONE: &str = "[server]\nmemory = \"1G\"\n[[export]]\nname = \"a\"\nuri = \"mem:1G\"\n";

    #[test]
    fn what_is_written_differently_is_no_change() {
        let other =
            "# a comment\n[[export]]\nuri = \"mem:1024M\"\nname = \"a\"\n[server]\nmemory = \"1024M\"\n";
        assert!(of(ONE, other).is_empty());
        assert!(of("", "").is_empty());
    }

    #[test]
    fn exports_come_go_and_change() {
        let export = |name: &str, uri: &str| format!("[[export]]\nname = \"{name}\"\nuri = \"{uri}\"\n");
        let old = export("a", "mem:1G") + &export("b", "mem:1G") + &export("c", "mem:1G");
        let new = export("d", "mem:1G") + &export("b", "mem:2G") + &export("a", "mem:1G");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = Difference {
            added: names(&["d"]),
            removed: names(&["c"]),
            changed: names(&["b"]),
            settings: Vec::new(),
        };
        assert_eq!(of(&old, &new), expected);
        let read_only = format!("{}read-only = true\n", export("a", "mem:1G"));
        assert_eq!(of(&export("a", "mem:1G"), &read_only).changed, ["a"]);
        let first = of("", &old);
        assert_eq!((first.added, first.removed), (names(&["a", "b", "c"]), names(&[""])), "the example goes");
    }

    #[test]
    fn settings_have_the_names_of_their_flags() {
        let new =
            ONE.replace("1G\"\n[[", "2G\"\ntcp = \"1\"\nslow = \"1s\"\nallow-directories = [\"/x\"]\n[[");
        assert_eq!(of(ONE, &new).settings, ["unix, tcp", "memory", "allow-directories", "slow"]);
        assert_eq!(of(ONE, ONE).settings, [] as [&str; 0]);
        assert_eq!(of("", "[server]\nsandbox = \"auto\"").settings, ["sandbox"], "newly said");
    }
}
