"""Compiled bundles with TensorRT's forms, without TensorRT."""

import shutil

from isoform.compile.build import write_compiled
from isoform.compile.export.half import halved
from isoform.compile.tensorrt.forms import forms_of
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TASK, form_file, vector_file
from isoform.runtime.formats.bundle import Bundle


def with_forms(source, folder, *, forms=(ONE, MANY), precision="fp32", classes=12, tasks=None, more=None):
    """A copy of a compiled bundle, with forms; ``tasks``: task → precision and file of a form of its own; ``more``: other files."""
    shutil.copytree(source, folder)
    bundle = Bundle.load(folder)
    made = bundle.require_compiled()
    written = {name: made.read(name) for name in made.manifest["files"]}
    for name, file in made.graphs.items():
        found = forms_of(file, bundle.network.graph(name), classes=classes)
        written[vector_file(name)] = found.vector.encode()
        for form in forms:
            data = getattr(found, form)
            written[form_file(name, form, precision)] = (
                data if precision == "fp32" else halved(data, samples=bundle.network.input.name)
            )
    for task, data in (tasks or {}).items():
        written[form_file(task, TASK, data[0])] = data[1]
    written |= more or {}
    signatures = {task: bundle.base(task) for task in bundle.signatures}
    shutil.rmtree(folder / "compiled")
    (folder / "compiled").mkdir()
    write_compiled(folder / "compiled", bundle, signatures, written, {}, tau=0.95)
    return Bundle.load(folder)
