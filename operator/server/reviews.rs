//! The kinds of review: a client asks who it is, what it may do, and, if it may ask that, what others may do. Pure.

/// A kind of review.
#[derive(Debug, PartialEq, Eq)]
pub struct Review {
    /// Its group; the version is v1.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
    /// Whether it is asked in a namespace.
    pub namespaced: bool,
}

/// The version of all reviews.
pub const VERSION: &str = "v1";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// The reviews that are answered.
pub const REVIEWS: [Review; 5] = [
    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", false),
    review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", false),
    review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
];

const fn review(group: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Review {
    Review { group, kind, plural, namespaced }
}

/// The review at this path.
pub fn find(group: &str, version: &str, plural: &str, namespaced: bool) -> Option<&'static Review> {
    let wanted = (group, version, plural, namespaced);
    REVIEWS.iter().find(|review| (review.group, VERSION, review.plural, review.namespaced) == wanted)
}
