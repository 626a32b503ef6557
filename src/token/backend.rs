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
    pub(super) fn ed25519(x: &[u8]) -> Option<Self> {
        Some(Self::Ed25519 { x: x.try_into().ok()? })
    }

    pub(super) fn p256(x: &[u8], y: &[u8]) -> Option<Self> {
        Some(Self::P256 { x: x.try_into().ok()?, y: y.try_into().ok()? })
    }

    /// From an uncompressed point (SEC 1 §2.3.3).
    fn uncompressed_p256(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
        Self::p256(x, y)
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
        pub(in super::super) fn new(point: &Point) -> Option<Self> {
            let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
            Some(match point {
                Point::Ed25519 { x } => Self(Algorithm::EdDSA, DecodingKey::from_ed_der(x)),
                Point::P256 { x, y } => {
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
