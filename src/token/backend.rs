//! The cryptography of EdDSA (Ed25519) and ES256: of the crates ed25519-dalek and p256, or of aws-lc-rs by way of
//! jsonwebtoken. The backend of jsonwebtoken is called directly, because the choice of the process-wide provider belongs to
//! the app.

#[cfg(feature = "aws_lc_rs")]
pub(super) use self::aws_lc::{PrivateKey, PublicKey};
#[cfg(not(feature = "aws_lc_rs"))]
pub(super) use self::rust::{PrivateKey, PublicKey};

/// The bytes of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Ed25519 { x: [u8; 32] },
    P256 { x: [u8; 32], y: [u8; 32] },
}

impl Point {
    /// None if anybody could sign for it, or if it has another encoding than its own.
    pub(super) fn ed25519(x: &[u8]) -> Option<Self> {
        let x = x.try_into().ok()?;
        (!has_small_order(x)).then_some(Self::Ed25519 { x })
    }

    pub(super) fn p256(x: &[u8], y: &[u8]) -> Option<Self> {
        Some(Self::P256 { x: x.try_into().ok()?, y: y.try_into().ok()? })
    }

    /// The uncompressed point (SEC 1 §2.3.3).
    #[cfg(feature = "aws_lc_rs")]
    fn to_uncompressed_p256(x: &[u8; 32], y: &[u8; 32]) -> Vec<u8> {
        [&[4][..], x, y].concat()
    }

    /// From an uncompressed point (SEC 1 §2.3.3).
    fn uncompressed_p256(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
        Self::p256(x, y)
    }
}

/// Whether an Ed25519 point has an order of at most 8, so that some signatures verify for it that no private key has made, or
/// is encoded in more bits than it needs (RFC 8032 §5.1.3).
fn has_small_order(point: [u8; 32]) -> bool {
    /// The prime 2²⁵⁵ - 19 without its last byte, which is 0xed. The encoding is little-endian.
    const PRIME: [u8; 31] = {
        let mut bytes = [0xff; 31];
        bytes[30] = 0x7f;
        bytes
    };
    /// The y coordinates of the two points of order 8, the other two being their negatives.
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    // The highest bit is the sign of x.
    let mut y = point;
    let [.., last] = &mut y;
    *last &= 0x7f;
    match y {
        // 0 and 1 have the orders 4 and 1.
        [0 | 1, rest @ ..] if rest == [0; 31] => true,
        // One less than the prime has the order 2. The prime and what follows are 0 and so on.
        [0xec..=0xff, rest @ ..] if rest == PRIME => true,
        _ => ORDER_8.contains(&y),
    }
}

#[cfg(not(feature = "aws_lc_rs"))]
mod rust {
    use ed25519_dalek::Signer as _;
    use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
    use p256::ecdsa::signature::Verifier as _;

    use super::Point;

    #[derive(Clone)]
    pub(in super::super) enum PrivateKey {
        Ed25519(Box<ed25519_dalek::SigningKey>),
        P256(Box<p256::ecdsa::SigningKey>),
    }

    #[derive(Clone)]
    pub(in super::super) enum PublicKey {
        Ed25519(Box<ed25519_dalek::VerifyingKey>),
        P256(Box<p256::ecdsa::VerifyingKey>),
    }

    fn text(pem: &[u8]) -> Option<&str> {
        std::str::from_utf8(pem).ok().map(str::trim)
    }

    impl PrivateKey {
        pub(in super::super) fn ed25519_pem(pem: &[u8]) -> Option<(Self, Point)> {
            let key = ed25519_dalek::SigningKey::from_pkcs8_pem(text(pem)?).ok()?;
            let point = Point::ed25519(key.verifying_key().as_bytes())?;
            Some((Self::Ed25519(Box::new(key)), point))
        }

        pub(in super::super) fn p256_pem(pem: &[u8]) -> Option<(Self, Point)> {
            let key = p256::ecdsa::SigningKey::from_pkcs8_pem(text(pem)?).ok()?;
            let point = Point::uncompressed_p256(key.verifying_key().to_encoded_point(false).as_bytes())?;
            Some((Self::P256(Box::new(key)), point))
        }

        pub(in super::super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
            Some(match self {
                Self::Ed25519(key) => key.try_sign(message).ok()?.to_bytes().to_vec(),
                Self::P256(key) => {
                    let signature: p256::ecdsa::Signature = key.try_sign(message).ok()?;
                    signature.to_bytes().to_vec()
                }
            })
        }
    }

    impl PublicKey {
        /// None if there is no such point on the curve.
        pub(in super::super) fn new(point: &Point) -> Option<Self> {
            Some(match point {
                Point::Ed25519 { x } => Self::Ed25519(Box::new(ed25519_dalek::VerifyingKey::from_bytes(x).ok()?)),
                Point::P256 { x, y } => {
                    let point = p256::EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
                    Self::P256(Box::new(p256::ecdsa::VerifyingKey::from_encoded_point(&point).ok()?))
                }
            })
        }

        pub(in super::super) fn ed25519_pem(pem: &[u8]) -> Option<Point> {
            let key = ed25519_dalek::VerifyingKey::from_public_key_pem(text(pem)?).ok()?;
            Point::ed25519(key.as_bytes())
        }

        pub(in super::super) fn p256_pem(pem: &[u8]) -> Option<Point> {
            let key = p256::ecdsa::VerifyingKey::from_public_key_pem(text(pem)?).ok()?;
            Point::uncompressed_p256(key.to_encoded_point(false).as_bytes())
        }

        pub(in super::super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
            match self {
                Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
                Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            }
        }
    }
}

#[cfg(feature = "aws_lc_rs")]
mod aws_lc {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
    use jsonwebtoken::jwk::EllipticCurve;
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

    use super::Point;

    #[derive(Clone)]
    pub(in super::super) struct PrivateKey(Algorithm, EncodingKey);

    #[derive(Clone)]
    pub(in super::super) struct PublicKey(Algorithm, DecodingKey);

    impl PrivateKey {
        pub(in super::super) fn ed25519_pem(pem: &[u8]) -> Option<(Self, Point)> {
            let key = EncodingKey::from_ed_pem(pem).ok()?;
            let components = PROVIDER.key_utils.ed_pub_components_from_private_key;
            let x = components(key.as_bytes(), &EllipticCurve::Ed25519).ok()?;
            Some((Self(Algorithm::EdDSA, key), Point::ed25519(&x)?))
        }

        pub(in super::super) fn p256_pem(pem: &[u8]) -> Option<(Self, Point)> {
            let key = EncodingKey::from_ec_pem(pem).ok()?;
            let components = PROVIDER.key_utils.ec_pub_components_from_private_key;
            let (_, x, y) = components(key.as_bytes(), Algorithm::ES256).ok()?;
            Some((Self(Algorithm::ES256, key), Point::p256(&x, &y)?))
        }

        pub(in super::super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
            let signer = (PROVIDER.signer_factory)(&self.0, &self.1).ok()?;
            signer.try_sign(message).ok()
        }
    }

    impl PublicKey {
        /// None if there is no such point on the curve. This backend cannot tell for Ed25519: no signature verifies for one that
        /// is none.
        pub(in super::super) fn new(point: &Point) -> Option<Self> {
            let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
            Some(match point {
                Point::Ed25519 { x } => Self(Algorithm::EdDSA, DecodingKey::from_ed_der(x)),
                Point::P256 { x, y } => {
                    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, Point::to_uncompressed_p256(x, y)).ok()?;
                    Self(Algorithm::ES256, DecodingKey::from_ec_components(&encode(x), &encode(y)).ok()?)
                }
            })
        }

        pub(in super::super) fn ed25519_pem(pem: &[u8]) -> Option<Point> {
            Point::ed25519(DecodingKey::from_ed_pem(pem).ok()?.try_get_as_bytes().ok()?)
        }

        pub(in super::super) fn p256_pem(pem: &[u8]) -> Option<Point> {
            Point::uncompressed_p256(DecodingKey::from_ec_pem(pem).ok()?.try_get_as_bytes().ok()?)
        }

        pub(in super::super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
            let verifier = (PROVIDER.verifier_factory)(&self.0, &self.1);
            verifier.is_ok_and(|verifier| verifier.verify(message, &signature.to_vec()).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `y` with both signs of x.
    fn both_signs(y: [u8; 32]) -> [[u8; 32]; 2] {
        let mut negative = y;
        negative[31] |= 0x80;
        [y, negative]
    }

    fn number(hexadecimal: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hexadecimal[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn an_ed25519_point_of_small_order_is_no_public_key() {
        let mut small = vec![
            number("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            number("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        ];
        let with = |first: u8, others: u8, last: u8| -> [u8; 32] {
            std::array::from_fn(|i| if i == 0 { first } else { [others, last][i / 31] })
        };
        small.extend([with(0, 0, 0), with(1, 0, 0), with(0xec, 0xff, 0x7f)]);
        for encoded in small.iter().copied().flat_map(both_signs) {
            assert_eq!(Point::ed25519(&encoded), None, "{encoded:02x?}");
            #[cfg(feature = "signing")]
            assert!(ed25519_dalek::VerifyingKey::from_bytes(&encoded).is_ok_and(|key| key.is_weak()), "{encoded:02x?}");
        }
        // The prime and what is greater.
        for encoded in (0xed..=0xff).map(|first| with(first, 0xff, 0x7f)).flat_map(both_signs) {
            assert_eq!(Point::ed25519(&encoded), None, "{encoded:02x?}");
        }
        for seed in 0..100 {
            assert!(Point::ed25519(&[seed; 32]).is_some() || seed == 0, "{seed}");
        }
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_no_public_key() {
        let p256 = |x: [u8; 32], y: [u8; 32]| Point::p256(&x, &y).and_then(|point| PublicKey::new(&point)).is_some();
        // The public key of RFC 7517 appendix A.1.
        let x = number("30a0424cd21c2944838a2d75c92b37e76ea20d9f00893a3b4eee8a3c0aafec3e");
        let y = number("e04b65e92456d9888b52b379bdfbd51ee869ef1f0fc65b6659695b6cce081723");
        assert!(p256(x, y));
        for (x, y) in [(x, x), (y, x), ([0; 32], [0; 32]), ([1; 32], [1; 32]), ([0xff; 32], y)] {
            assert!(!p256(x, y), "{x:02x?} {y:02x?}");
        }
    }
}
