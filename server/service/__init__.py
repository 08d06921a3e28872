"""What requests share: the runtime, users' signatures, tasks, jobs, settings."""
