"""What everything is made of: types, records, errors, masked sums and the `Method` contract."""
