"""Certificates of an installation: what they are good for, and when they are made anew."""

from pathlib import Path

import pytest
from cryptography import x509

from services.api.operations.certificates import ensure_certificates, installation_hosts
from services.api.settings import ApiSettings

FILES = ("ca.pem", "cert.pem", "key.pem")


def test_every_host_that_a_service_is_called_at_and_this_machine_are_covered(
    tmp_path: Path,
) -> None:
    settings = ApiSettings(
        database_url="postgresql+psycopg://dirl@db/dirl",
        rollout_addresses=("rollout-1:50051", "rollout-2:50051"),
        trainer_addresses=("[fd00::7]:50053",),
        reward_address="10.0.0.3:50052",
    )

    ensure_certificates(tmp_path, installation_hosts(settings))

    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "rollout-1", "rollout-2"}
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {
        "10.0.0.3",
        "127.0.0.1",
        "fd00::7",
    }


def test_the_authority_signed_the_certificate_and_its_own_key_is_not_kept(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["localhost"])

    authority, certificate = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        for name in ("ca.pem", "cert.pem")
    )
    certificate.verify_directly_issued_by(authority)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("before", "after", "anew"),
    [
        (["a", "b"], ["b"], False),
        (["a"], ["a"], False),
        (["a"], ["a", "b"], True),
        ([], ["a"], True),
    ],
)
def test_certificates_are_kept_while_they_are_good_for_the_hosts(
    tmp_path: Path, before: list[str], after: list[str], anew: bool
) -> None:
    if before:
        ensure_certificates(tmp_path, before)
    content = [(tmp_path / name).read_bytes() for name in FILES if (tmp_path / name).exists()]

    made = ensure_certificates(tmp_path, after)

    assert made is anew
    assert ([(tmp_path / name).read_bytes() for name in FILES] == content) is not anew
