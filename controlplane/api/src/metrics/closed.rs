//! Metrics whose label values are known beforehand.

use std::{fmt, fmt::Debug, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
};

/// A label: its key, and every value it can have.
pub trait Label: Copy + PartialEq + Debug + Send + Sync + 'static {
    /// As it stands in the series.
    const KEY: &'static str;

    /// Every one.
    fn all() -> Vec<Self>;

    /// As it stands in the series: lower case with underscores.
    fn value(self) -> &'static str;
}

/// Makes an enum a [`Label`]: the key, and each variant with its value.
#[macro_export]
macro_rules! labels {
    ($(#[$doc:meta])* $vis:vis enum $name:ident $key:literal { $($(#[$vdoc:meta])* $variant:ident $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$vdoc])* $variant,)* }

        impl $crate::metrics::Label for $name {
            const KEY: &'static str = $key;

            fn all() -> Vec<Self> {
                vec![$(Self::$variant,)*]
            }

            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    };
}

/// One label or two.
pub trait Labels: Copy + PartialEq + Debug + Send + Sync + 'static {
    /// Every combination.
    fn all() -> Vec<Self>;

    /// Key and value of each.
    fn pairs(self) -> Vec<(&'static str, &'static str)>;
}

impl<L: Label> Labels for L {
    fn all() -> Vec<Self> {
        L::all()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        vec![(L::KEY, self.value())]
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn all() -> Vec<Self> {
        let each = |a| B::all().into_iter().map(move |b| (a, b));
        A::all().into_iter().flat_map(each).collect()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        vec![(A::KEY, self.0.value()), (B::KEY, self.1.value())]
    }
}

/// A metric for each combination of labels, all of them there from the start. Cheap to clone; found without a lock.
#[derive(Debug)]
pub struct Closed<L, M>(Arc<[(L, M)]>);

impl<L, M> Clone for Closed<L, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Labels, M: Default> Default for Closed<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<L: Labels, M> Closed<L, M> {
    /// Each made by this.
    pub fn new(make: impl Fn() -> M) -> Self {
        Self(L::all().into_iter().map(|labels| (labels, make())).collect())
    }

    /// That of these labels. One whose labels are not among all of them, which a [`Label`] must not allow, is counted as the first.
    pub fn get(&self, labels: L) -> &M {
        let found = self.0.iter().find(|(other, _)| *other == labels);
        debug_assert!(found.is_some(), "{labels:?} is not among all of them");
        &found.unwrap_or(&self.0[0]).1
    }

    /// Every one.
    pub fn iter(&self) -> impl Iterator<Item = &(L, M)> {
        self.0.iter()
    }
}

impl<L: Labels, M: EncodeMetric + TypedMetric> EncodeMetric for Closed<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in self.0.iter() {
            metric.encode(encoder.encode_family(&labels.pairs())?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
