//! [`Newest`]: the newest stay of this node with the control plane, as far as calls have told it.
//!
//! A call of an earlier one is refused, whether it comes late or has waited its turn: since then the control plane has
//! asked what is here, and believes the answer.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use reveille_api::Stay;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Newest(RwLock<Stay>);

/// The control plane has begun a later stay than this call's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this call is of stay {asked}, and this node has heard of stay {newest}")]
pub(crate) struct Over {
    asked: Stay,
    newest: Stay,
}

impl Newest {
    pub(crate) fn get(&self) -> Stay {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has come. After the first one of a stay no operation of an earlier one is begun, and what was begun before
    /// is to be seen.
    pub(crate) fn hear(&self, asked: Stay) -> Result<(), Over> {
        let newest = self.get();
        if asked < newest {
            return Err(Over { asked, newest });
        }
        if asked > newest {
            let mut newest = self.0.write().unwrap_or_else(PoisonError::into_inner);
            *newest = asked.max(*newest);
        }
        Ok(())
    }

    /// To be held until the operation can be seen by those who ask what is here.
    pub(crate) fn begin(&self, asked: Stay) -> Result<RwLockReadGuard<'_, Stay>, Over> {
        let newest = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if asked < *newest {
            return Err(Over { asked, newest: *newest });
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_is_over_when_a_later_one_is_heard_of() {
        let newest = Newest::default();
        newest.hear(Stay(0)).unwrap();
        newest.hear(Stay(2)).unwrap();
        let over = Over { asked: Stay(1), newest: Stay(2) };
        assert_eq!(newest.hear(Stay(1)), Err(over.clone()));
        assert_eq!(newest.begin(Stay(1)).unwrap_err(), over);
        drop(newest.begin(Stay(2)).unwrap());
        assert_eq!(newest.get(), Stay(2));
    }
}
