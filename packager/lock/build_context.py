# SPDX-License-Identifier: Apache-2.0
"""What locking and building know of where they run."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packager.canonical import JSON
from packager.contract.runtime_tables import Tables, load_shipped
from packager.recipe.recipe import Recipe
from packager.sources import Settings
from packager.store.file_digests import Memo

if TYPE_CHECKING:
    from packager.transport.registry import wire


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What the command line passes to the library: its directory, environment, registries, the day, known runtimes."""

    base: Path
    tracking: str | None
    environment: Mapping[str, str]
    registries: Callable[[], wire.Settings] | None = None
    today: datetime.date | None = None
    share: Callable[[JSON, Callable[[], JSON]], JSON] | None = None  # answers of indexes that hold for many recipes
    clock: Callable[[], datetime.datetime] | None = None
    tables: Tables = load_shipped  # what is known of runtimes where the work is done

    def settings(self, recipe: Recipe, memo: Memo) -> Settings:
        """Return what sources may know; the recipe's registry wins over the environment's."""
        home = Path(self.environment.get("BENTOML_HOME") or Path(self.environment.get("HOME", "/"), "bentoml"))
        return Settings(
            self.base,
            recipe.source,
            recipe.registry or self.tracking,
            blob_of=memo.blob_of,
            bentoml=home,
            registries=self.registries,
        )
