"""What peers are told of the items: the catalogue as plain values."""

from typing import Any

import numpy as np

from recsys.catalogue import Catalogue
from recsys.schema import Col


def describe_items(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return what is known of each item apart from behaviour, in row order."""
    table = catalogue.table
    description = table[Col.DESCRIPTION].to_list() if Col.DESCRIPTION in table.columns else [None] * len(catalogue)
    categories = table[Col.CATEGORIES].to_list() if Col.CATEGORIES in table.columns else [None] * len(catalogue)
    values = catalogue.values
    names = [
        f"{catalogue.value_fields[field]}={name}"
        for name, field in zip(catalogue.value_names, catalogue.value_field, strict=True)
    ]
    return [
        {
            "title": title,
            "description": description[row] or "",
            "categories": list(categories[row] or []),
            "text": catalogue.texts[row],
            "features": sorted(names[value] for value in values.indices[values.indptr[row] : values.indptr[row + 1]]),
            "numbers": {
                field: None if np.isnan(number) else float(number)
                for field, number in zip(catalogue.numeric_fields, catalogue.numeric[row], strict=True)
            },
        }
        for row, title in enumerate(catalogue.titles)
    ]
