//! The stream's own records: where its planned part ends, and where it ends.

record! {
    /// Ends the planned part of a stream. Exactly one.
    MarkV1 [0x0001, "mark", Plan, true, 24] key |_record| [0, 0];
    {
        /// Bytes of payload before this record's frame.
        pub payload_bytes: u64,
        /// Records before this one.
        pub records: u64,
        /// CRC32C of those bytes, which makes two plans distinguishable.
        pub crc: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// Ends a stream. Exactly one, and the last. Its counts are of what was written.
    EndV1 [0x0002, "end", Freeze, true, 24] key |_record| [0, 0];
    {
        /// Bytes of payload before this record's frame.
        pub payload_bytes: u64,
        /// Records before this one, the mark included.
        pub records: u64,
        /// Records before the mark.
        pub planned_records: u64,
    }
}

record! {
    /// Ends what is settled behind the mark: records that only a guest's writes to its devices' registers change. At most one. A reader
    /// that has read this far at PLAN, and finds the same record in the same place in the pause, need not read it again.
    SettledV1 [0x0003, "settled mark", Freeze, false, {2: 24}] key |_record| [0, 0];
    {
        /// Bytes of payload before this record's frame.
        pub payload_bytes: u64,
        /// Records before this one.
        pub records: u64,
        /// CRC32C of those bytes, which makes two of them distinguishable.
        pub crc: u32,
        reserved: [u8; 4],
    }
}
