"""State that requests share: the runtime, users' signatures, tasks, batches, jobs, settings."""
