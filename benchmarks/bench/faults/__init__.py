"""What servers are sent that they should not be sent, and what is true afterwards."""
