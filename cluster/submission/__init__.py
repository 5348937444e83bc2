"""Jobs that are sent to a cluster, over Ray's Jobs API."""
