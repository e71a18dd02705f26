"""Many runs by a plan, searches, and what they say."""
