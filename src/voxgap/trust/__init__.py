"""What an answer is worth for each pattern of gaps: guaranteed sets, certificates of subsets, audits of shortcuts."""
