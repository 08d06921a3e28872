"""Commands of ``isoform`` that run on a device: predict, inspect, personalize, adapt, figure."""
