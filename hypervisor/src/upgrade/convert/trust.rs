//! Release 0.1, format 2: whose images may be staged.

use alloc::vec::Vec;

use handover::State;
use handover::note::signature::KEY_BYTES;
use handover::state::trust::{KeyV1, TRUST_UNSIGNED, TrustV1};

use super::{Converted, optional, require};

/// Whose images may be staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustState {
    /// Ed25519 public keys.
    pub keys: Vec<[u8; KEY_BYTES]>,
    /// Images without a signature may be staged as well.
    pub unsigned: bool,
    /// Oldest build that may follow, zero for any.
    pub minimum_build: u32,
}

/// Appends the keys and the policy. Part of the plan. What format 1 could not say, that any image may be staged, is said by nothing.
pub fn save(state: &mut State, trust: &TrustState) {
    let keys = (0..).zip(&trust.keys).map(|(number, public)| KeyV1 { public: *public, number, reserved: [0; 4] });
    state.keys.extend(keys);
    if !trust.unsigned || trust.minimum_build != 0 {
        let flags = if trust.unsigned { TRUST_UNSIGNED } else { 0 };
        state.trusts.push(TrustV1 { flags, minimum_build: trust.minimum_build });
    }
}

/// The keys and the policy in a set.
///
/// # Errors
/// The policy is there twice, or holds what cannot be.
pub fn load(state: &State) -> Converted<TrustState> {
    let keys = state.keys.iter().map(|key| key.public).collect();
    let Some(record) = optional(&state.trusts)? else {
        return Ok(TrustState { keys, unsigned: true, minimum_build: 0 });
    };
    require(record.flags & !TRUST_UNSIGNED == 0, record, "flags", record.flags)?;
    Ok(TrustState { keys, unsigned: record.flags & TRUST_UNSIGNED != 0, minimum_build: record.minimum_build })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trusted_goes_over_and_nothing_means_anything_may() {
        let anything = TrustState { keys: Vec::new(), unsigned: true, minimum_build: 0 };
        let keys = alloc::vec![[1; 32], [2; 32]];
        let sent = [
            TrustState { keys: keys.clone(), unsigned: false, minimum_build: 0 },
            TrustState { keys, unsigned: true, minimum_build: 7 },
            TrustState { unsigned: false, ..anything.clone() },
            anything.clone(),
        ];
        for trust in sent {
            let mut state = State::default();
            save(&mut state, &trust);
            assert_eq!(load(&state), Ok(trust));
        }
        let mut state = State::default();
        save(&mut state, &anything);
        assert!(state.keys.is_empty() && state.trusts.is_empty(), "format 1 can say this");
        state.trusts.push(TrustV1 { flags: 2, minimum_build: 0 });
        assert!(load(&state).is_err());
    }
}
