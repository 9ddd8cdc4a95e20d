"""The list of what is in an image, as CycloneDX: the same image, the same document."""

from __future__ import annotations

import base64
import json
import re
import uuid

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tinyagentos.factory.inventory import Inventory, NpmPackage, PythonPackage
from tinyagentos.factory.lock import Lock, LockedWheel
from tinyagentos.model.recipe import Recipe

ALGORITHMS = {"sha512": HashAlgorithm.SHA_512, "sha1": HashAlgorithm.SHA_1}


def render_sbom(recipe: Recipe, suite: str, found: Inventory, lock: Lock, fingerprint: str) -> str:
    """The CycloneDX 1.6 document of an image. suite: the Debian release its packages are of."""
    bom = Bom(
        # The standard wants a UUID; one made of the lock is the same in every build.
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, lock.digest),
        metadata=BomMetaData(
            timestamp=recipe.released,
            component=Component(
                name=recipe.name,
                version=recipe.version,
                type=ComponentType.OPERATING_SYSTEM,
                bom_ref="image",
                description=f"{recipe.title}, Incus image for {lock.arch}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=fingerprint)],
            ),
        ),
        components=[
            *(
                _component(
                    PackageURL("deb", "debian", one.name, one.version,
                               {"arch": one.architecture, "distro": suite})
                )
                for one in found.debian
            ),
            *(_npm(one) for one in found.npm),
            *(_python(one) for one in found.python),
            *(_wheel(one) for one in lock.wheels if not one.tool),
        ],
    )  # fmt: skip
    image = bom.metadata.component
    if image:
        bom.register_dependency(image, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _npm(package: NpmPackage) -> Component:
    scope, _, name = package.name.rpartition("/")
    component = _component(PackageURL("npm", scope or None, name, package.version))
    algorithm, _, value = package.integrity.partition("-")
    if algorithm in ALGORITHMS:
        content = base64.b64decode(value).hex()
        component.hashes = [HashType(alg=ALGORITHMS[algorithm], content=content)]
    return _licensed(component, package.license)


def _python(package: PythonPackage) -> Component:
    name = re.sub(r"[-_.]+", "-", package.name).lower()  # as the purl type `pypi` wants it
    return _licensed(_component(PackageURL("pypi", None, name, package.version)), package.license)


def _licensed(component: Component, licence: str) -> Component:
    if licence:
        component.licenses = [LicenseFactory().make_from_string(licence)]
    return component


def _wheel(wheel: LockedWheel) -> Component:
    component = _component(PackageURL("pypi", None, wheel.package, wheel.version))
    component.hashes = [HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)]
    return component


def _component(purl: PackageURL) -> Component:
    name = f"{purl.namespace}/{purl.name}" if purl.type == "npm" and purl.namespace else purl.name
    return Component(
        name=name,
        version=purl.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
    )
