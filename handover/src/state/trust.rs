//! Whom the next image believes that an image may be staged: the operator's keys and policy.

record! {
    /// A public key by which images may be signed.
    KeyV1 [0x0805, "signing key", Plan, true, {2: 40}] key |record| [record.number.into(), 0];
    {
        /// Ed25519 public key (RFC 8032 5.1.5).
        pub public: [u8; 32],
        /// Number of the key, from 0 on.
        pub number: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// What images may be staged. At most one; without it unsigned ones may, as in format 1, which knew no signatures: a machine
    /// that demands more can't be handed over in that format.
    TrustV1 [0x0806, "upgrade policy", Plan, true, {2: 8}] key |_record| [0, 0];
    {
        /// `TRUST_*`.
        pub flags: u32,
        /// Oldest build number that may follow, zero for any.
        pub minimum_build: u32,
    }
}

/// [`TrustV1::flags`]: images that are not signed may be staged.
pub const TRUST_UNSIGNED: u32 = 1;
