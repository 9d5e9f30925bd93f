//! Planted bugs, one of which a thread can switch on in a build with the feature `sim`: the tests of the
//! simulation must find each.
//!
//! Everywhere else `canary!(..)` is `false`, and the compiler leaves nothing of it.

/// Whether a planted bug is switched on.
#[cfg(feature = "sim")]
macro_rules! canary {
    ($name:ident) => {
        $crate::canary::is_on($crate::canary::Canary::$name)
    };
}

/// Whether a planted bug is switched on: never in this build.
#[cfg(not(feature = "sim"))]
macro_rules! canary {
    ($name:ident) => {
        false
    };
}

#[cfg(feature = "sim")]
pub(crate) use switch::is_on;
#[cfg(feature = "sim")]
pub use switch::{ALL, Canary, switch};

#[cfg(feature = "sim")]
mod switch {
    use std::cell::Cell;

    macro_rules! canaries {
        ($($(#[$doc:meta])* $name:ident,)*) => {
            /// A bug.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum Canary { $($(#[$doc])* $name,)* }
            /// All of them.
            pub const ALL: &[Canary] = &[$(Canary::$name,)*];
        };
    }

    canaries! {
        /// A reply bears another request's cookie.
        WrongCookie,
        /// The memory of a payload is given back when its send starts, not when it ends.
        LeaseBackEarly,
        /// FLUSH is answered without `fdatasync`.
        FlushWithoutSync,
        /// FLUSH is answered without `fdatasync` while this server has written nothing: what the one before
        /// it left in the page cache is forgotten.
        CleanFlushSkipped,
        /// After a sync that failed, one that succeeds is believed.
        FailedSyncForgotten,
        /// A sync for FUA is believed whatever becomes of those beside it.
        SyncBesideIgnored,
        /// A write is answered when it is submitted, so a FLUSH after it covers nothing.
        WriteAnsweredEarly,
        /// FUA of a WRITE is ignored.
        FuaIgnored,
        /// FUA of a WRITE_ZEROES is ignored.
        FuaOfZeroesIgnored,
        /// A write that moved less than asked is a success.
        ShortWriteIsSuccess,
        /// What a short read did not bring is zero.
        ShortReadZeroFilled,
        /// A write that failed is a success.
        WriteErrorIgnored,
        /// A read that failed half-way claims all of its bytes.
        FailedReadClaimsAll,
        /// The payload of a refused write is read as requests.
        DiscardForgotten,
        /// Of a WRITE_ZEROES only the first part happens.
        ZeroesFirstPartOnly,
        /// Chunks of a reply leave in the wrong order.
        ChunksSwapped,
        /// Slots and memory that come back wake nobody.
        LostWakeUp,
        /// Unaligned writes of a direct export do not keep out of the way of direct ones.
        UnalignedGateSkipped,
        /// A direct read does not look where in memory its bytes go.
        MisalignedMemory,
        /// An interrupted operation is an error.
        InterruptedIsFailure,
        /// Bytes that a client sends or fetches are no progress of its requests.
        ProgressCountsReplies,
        /// Whoever waits for a long lease is overtaken by any number of others.
        LongestOvertaken,
        /// The socket of a connection that was aborted stays registered.
        SocketLeaked,
        /// A write whose payload did not arrive completely is carried out.
        TruncatedPayloadWritten,
        /// A payload that came too late to be written keeps its memory until everything else is answered.
        LatePayloadKept,
        /// A hole's neighbour is taken for a part of it.
        HoleTooLong,
        /// Requests that did not begin before the end are answered with ESHUTDOWN, though `--shutdown errors`
        /// was not given.
        AnswersAtTheEnd,
        /// At the end of the server a socket of TCP is closed while bytes are unread: replies that have not
        /// arrived are lost.
        ClosedUnread,
        /// A socket is closed without being shut down before: on older kernels its client does not notice.
        EndUntold,
        /// An export that was removed while it had connections is never given up.
        RemovalForgotten,
        /// A read that is answered from the page cache brings the bytes beside it.
        CachedElsewhere,
        /// What of a chunk has left leaves once more after a short send.
        ShortSendRepeated,
        /// Any number of prefetches run at once.
        PrefetchUnbounded,
        /// One export may take all workers of a ring.
        WorkersUnbounded,
        /// A TRIM or WRITE_ZEROES is one `fallocate` however long its range is.
        PunchWhole,
        /// A read of a file into which a hole is being punched is tried in the shard.
        ReadsBesidePunch,
        /// A client that was killed while it waited is taken for one that waits.
        HangUpUnseen,
        /// A client that sends no more is taken for one that is gone.
        HalfCloseIsEnd,
        /// A long WRITE_ZEROES goes on when its client is gone.
        AbandonedZeroingGoesOn,
        /// A mapped range that has waited is sent without a look at whether it is still in the page cache.
        StalePagesTrusted,
        /// A mapped range that has waited is sent without a look at whether the file still has it.
        SizeNotAskedAgain,
        /// A page that cannot be had while a reply leaves is the end of its connection.
        FaultIsTheEnd,
        /// Any number of pages that were in the page cache a second ago are sent in one turn without a look.
        TrustUnbounded,
        /// A write of a part of a block that an image does not have yet forgets what is below it.
        MergeSkipsBase,
        /// Two writes of parts of one block merge it at the same time.
        MergeLosesNeighbour,
        /// A block of an image has its state before its data is written.
        StateBeforeWrite,
        /// Blocks of an image are zeroed while writes to them are under way.
        ZeroingBesideWrites,
        /// A TRIM of an image brings back what is below it.
        TrimRevealsBase,
        /// The record of a commit is durable before the data that it names.
        JournalBeforeData,
        /// The record of a FUA has all that is pending, of which only its own blocks are durable.
        FuaNeighbours,
        /// An image becomes larger while changes of it are under way.
        GrowthWithoutDrain,
        /// An image that becomes larger shows more of its base.
        BaseShownByGrowth,
        /// An image that becomes larger shows what its data has behind the old end.
        RestShownByGrowth,
        /// A head is sealed while writes to it are under way.
        SealWithoutDrain,
        /// The first image of a group goes on before the others are closed.
        SealedOneByOne,
        /// A reconnect to a remote is never taken for a crash of it.
        LossForgotten,
        /// A connection to a remote is used as soon as it comes, though others stand.
        NewcomerBelieved,
        /// What was under way on a lost connection to a remote is not sent again.
        ResendForgotten,
        /// A cookie is given to a remote again while the request that had it is under way.
        CookieReused,
        /// A next head takes over before the catalogue says that it may.
        HeadBeforeCatalog,
        /// FLUSH is answered before the catalogue has the head that was written to.
        FlushBeforeCommit,
        /// After a kill the next head of a snapshot that was being taken goes, with what was answered.
        TentativeDropped,
        /// What a server that was killed has left in the page cache is believed to be durable.
        RecoveryWithoutSync,
        /// A change is noted for the time after a kill only when the next one is.
        PendingAfterAnswer,
        /// What was noted of a change goes before the record that has it is durable.
        PendingDroppedEarly,
        /// A record of TLS has the number of the one before it now and then.
        RecordNumberRepeated,
        /// The header of a reply is sealed behind its payload, and sent before it.
        RecordsReordered,
        /// A payload of a connection with TLS leaves in plain text.
        PayloadUnsealed,
        /// After a key update of the client its old key is used further on.
        KeyUpdateForgotten,
        /// The front of a record is forgotten when its rest does not come with it.
        PartialRecordLost,
        /// A connection with TLS ends without a goodbye.
        FarewellForgotten,
        /// Waiting for pages changes nothing: what was seen in the page cache is trusted further on.
        FaultsIgnored,
        /// A shard sleeps without a look at what an application has ended since the turn began.
        EndedUnseen,
    }

    thread_local! {
        static ON: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Switches one on, or all off, for this thread.
    pub fn switch(canary: Option<Canary>) {
        ON.set(canary);
    }

    /// Whether one is on.
    pub(crate) fn is_on(canary: Canary) -> bool {
        ON.get() == Some(canary)
    }
}
