//! The inside of the library, as far as the `ringnbd` command, tests, benches and fuzz targets reach it. It
//! promises nothing: names come and go at any time.

pub use ringnbd_proto as nbd;
pub use ringnbd_proto::vocabulary as block;

pub mod backend {
    pub use crate::backend::{
        Export, ExportId, GrowOutcome, GrowTask, HomeTask, ImageHandle, NextHead, RecordOutcome, SealFailure,
        SealMember, SealTask, ShortenOutcome, ShortenTask, ShorterChain, SnapshotError, SnapshotRecord,
        seal_group, sealing,
    };
    #[cfg(feature = "sim")]
    pub use crate::backend::{SimulatedBlock, SimulatedImage, SimulatedLayer, SimulatedWay};
}

#[cfg(feature = "sim")]
pub mod canary {
    pub use crate::canary::{ALL, Canary, switch};
}

pub mod client {
    pub use crate::client::{
        Client, ClientError, MappedExtent, Merge, StatusExtent, Timeouts, enter, enter_relayed, fronted,
        info, list,
    };

    pub mod copy {
        pub use crate::client::copy::{
            CopyError, CopyOptions, CopyPlace, CopyReport, CopyWatch, copy, size_of,
        };
    }

    pub mod load {
        pub use crate::client::load::{
            Load, LoadInterval, LoadKind, LoadOptions, Observer, Pattern, Replies, Results, Stop,
        };

        pub mod pattern {
            pub use crate::client::load::pattern::{Mismatch, UNIT};
        }

        pub mod results {
            pub use crate::client::load::results::empty_histogram;
        }
    }

    pub mod uri {
        pub use crate::client::uri::{NbdUri, ServerAddress, TlsParameters};
    }
}

pub mod config {
    pub use crate::config::{
        AdminAddress, AttachConfig, CommandUri, Config, ControlAddress, ExportConfig, ExportUri, Limits,
        ListenAddress, LogFormat, Machine, OldestTls, Pinning, RateLimits, RunAs, SandboxMode, Settings,
        Shutdown, TlsPolicy, TlsSettings, Weight,
    };

    pub mod difference {
        pub use crate::config::difference::{Difference, NewRights, difference};
    }

    pub mod reload_plan {
        pub use crate::config::reload_plan::{ReloadPlan, reload_plan};
    }

    pub mod cpus {
        pub use crate::config::cpus::CpuList;
    }

    pub mod listen {
        pub use crate::config::listen::{AddressError, FileMode, TcpAddress, UnixAccess, UnixAddress};
    }

    pub mod uri_parts {
        pub use crate::config::uri_parts::escaped_path;
    }

    pub mod size {
        pub use crate::config::size::{parse_duration, parse_size};
    }
}

pub mod control {
    pub use crate::control::{
        AddExport, Ending, FileToOpen, Host, HostError, HostRequest, InheritedDescriptors, KeepDescriptors,
        LaunchCommand, Listener, OpenFiles, OpenedFile, OpeningFile, Ready, Reload, Reloaded, Reloading,
        RemoveExport, Served, Service, StartError, StoreRights, Takeover, TakeoverError, check, inherited,
        read_arbitrary, run,
    };

    pub mod machine {
        pub use crate::control::machine::survey;
    }

    pub mod ownership {
        pub use crate::control::ownership::{find_group, found, hand_over, number};
    }
}

pub mod identity {
    pub use crate::identity::PeerIdentity;
}

pub mod pause {
    pub use crate::pause::GrowingPause;
}

pub mod random {
    pub use crate::random::{Random, STEP, mixed};
}

pub mod ring {
    pub use crate::ring::{
        BufferPool, Directory, FileMapping, FileName, FileNameError, LARGEST_LEASE, OpenAs, Removed, Ring,
        RingOptions,
    };

    #[cfg(feature = "sim")]
    pub mod sim {
        pub use crate::ring::sim::{DirectoryId, Entered, Faults, FileId, Random, SocketId, World, mixed};
    }
}

pub mod shard {
    pub use crate::shard::Secured;
    pub use crate::shard::{ExportLimits, NewConnection, Removal, ShardConfig, ShardHandle};
    #[cfg(feature = "sim")]
    pub use crate::shard::{Holdings, SteppedShard};

    #[cfg(feature = "bench")]
    pub mod bench {
        pub use crate::shard::bench::{Content, OutboundRounds, ShardRounds, TableRounds};
    }
}

pub mod stats {
    pub use crate::stats::{
        ExportInterval, HEAT_ROWS, Operation, Percentiles, Phase, Timing, add_heat, heat_row_start_ns,
    };

    pub mod interval_log {
        pub use crate::stats::interval_log::{
            IntervalLog, IntervalLogWriter, LONG_AGO, LogError, LoggedInterval, split_tag, tag,
        };
    }

    pub mod provenance {
        pub use crate::stats::provenance::{COMMAND, MACHINE, comments, machine};
    }
}

pub mod store {
    pub use crate::backend::look_at_remote_base;
    pub use crate::store::arriving_delta::{ArrivingDelta, DeltaClaim};
    pub use crate::store::base::{FoundBase, base_differs, look_at_base};
    pub use crate::store::collect::PackCollection;
    pub use crate::store::collected::{CollectedLost, CollectedPacks, IngestState};
    pub use crate::store::copy::{
        BlockSpan, CopiedBlocks, MAP_BLOCK, copy_sparse, read_sparse, runs_of_data,
    };
    pub use crate::store::delta::DeltaError;
    pub use crate::store::describe::{NodeDescription, NodeDescriptions, StoreDescription};
    pub use crate::store::directory::StoreDirectory;
    pub use crate::store::error::StoreError;
    pub use crate::store::export::{NodePart, OnProgress, RawOutput};
    pub mod image_path {
        pub use crate::store::image_path::{ImagePath, ImagePathError, one_store};
    }
    pub use crate::store::boot_trace::BootTrace;
    pub use crate::store::ingest::LayerIngest;
    pub use crate::store::layer_copy::CopyProgress;
    pub use crate::store::layer_files::{LayerUsage, NewLayer};
    pub use crate::store::layer_place::{LayerPlace, PlacedBase, PlacedSnapshot};
    pub use crate::store::map::{Geometry, use_arbitrary};
    pub use crate::store::map_files::MapFiles;
    pub use crate::store::maps::{LayerDescription, LayerMaps};
    pub use crate::store::merging::ChainCopy;
    pub use crate::store::open_store::{OpenStore, Released, StoreUsage, now_s, random_uuid};
    pub use crate::store::pace::owed;
    pub use crate::store::packs::RebuiltIndex;
    pub use crate::store::pulling::PulledNode;
    pub use crate::store::push_notes::{PushLag, note_push, note_withdrawal};
    pub use crate::store::push_plan::{pack_files, push_plan};
    pub use crate::store::push_state::PushState;
    pub use crate::store::pushing::{NeededBytes, NeededPack, PackedSnapshot};
    pub use crate::store::rebasing::Rebased;
    pub use crate::store::rebuilding::{RebuiltCatalog, rebuild_catalog};
    pub use crate::store::request::{
        FlattenProgress, OpenFor, RebasedImages, RemovedNodes, RolledBack, StoreAnswer, StoreRequest,
        names_in_words,
    };
    pub use crate::store::scrub::{ChunkUse, DamagedChunk, ScrubOptions, ScrubReport, UnusablePack};
    pub use crate::store::shuru::{ShuruDisk, ShuruError};
    pub use crate::store::tier_record::{TierPath, TierSnapshot, look_up_snapshot};

    pub use crate::store::tier_setting::{set_tier, tier_of};

    pub mod catalog {
        pub use crate::store::catalog::*;
    }
}

pub mod sys {
    pub use crate::sys::{
        NbdIoctl, WatchedDescriptor, close_on_exec_from, ignore_signals, join_netlink_group, nbd_ioctl,
        pin_to_cpu,
    };

    pub mod confine {
        pub use crate::sys::confine::{hint, install_filter, note};
    }
}

pub mod task {
    pub use crate::exec::{ReadyList, Tasks};
}

pub mod tier {
    pub use crate::tier::*;
}

#[cfg(feature = "tls")]
pub mod tls {
    pub use {rcgen, rustls};

    pub use crate::tls::{
        Alert, AuthorityError, AuthorityOrder, CipherSuite, ConnectorError, MadeFile, OfferedIdentity,
        Opened, PskError, RECORD_DATA_BYTES, RECORD_FRONT_BYTES, RECORD_HEADER_BYTES, RECORD_TRAILER_BYTES,
        RENEWAL_RECORDS, RecordError, RecordReceiver, RecordSealer, ServerTrust, TLS_HANDSHAKE_BYTES,
        TlsAcceptor, TlsClientError, TlsClientHandshake, TlsConnector, TlsError, TlsHandshake, TlsIdentity,
        TlsMaterial, TlsSession, TlsSetupError, TlsStep, TlsVersion, make_authority, use_arbitrary,
    };
}
