//! What a checkpoint keeps of a sampler, so that a restart neither starts with a full bucket nor forgets what it has learnt.
//!
//! Traces that wait are not in it: they come back from the intake log. Decisions of the last batches are in the journal, and what the journal
//! still knows it answers itself; the memory here is for the older ones.

use tailwater_model::ids::TraceId;

use super::{SERVICES_MAX, Sampler};
use crate::controller::Account;
use crate::late::Late;
use crate::state::{Malformed, Reader, put_bytes, put_f64, put_u32, put_u64};

/// In version 1 kept and dropped traces were remembered in slices that they shared; before version 3 tenants had no accounts.
const VERSION: u8 = 3;

/// Resources that there are budgets of; the tokens of the others are endless.
const BUDGETS: usize = 2;

impl<M: Copy> Sampler<M> {
    /// The state, for an optional section of the checkpoint. Of `undecided` it says nothing: of traces that are decided here and whose decision is in no
    /// batch of the checkpoint, so that after a crash they come again, as undecided ones.
    pub fn encode(&self, undecided: &[TraceId]) -> Vec<u8> {
        let mut out = vec![VERSION];
        let controller = &self.controller;
        controller.tokens[..BUDGETS]
            .iter()
            .for_each(|tokens| put_f64(&mut out, *tokens));
        put_u64(&mut out, controller.last_ns);
        put_u64(&mut out, controller.day);
        put_f64(&mut out, controller.day_spent);
        put_u64(&mut out, self.tick);
        put_u32(&mut out, self.service.len() as u32);
        for (number, service) in self.service.iter().enumerate() {
            put_bytes(&mut out, self.services.name(number as u32));
            put_f64(&mut out, service.ratio);
            out.push(u8::from(service.audit.failed));
        }
        let accounts = controller.accounts.iter().enumerate();
        let accounts: Vec<_> = accounts
            .filter(|(_, account)| **account != Account::default())
            .collect();
        put_u32(&mut out, accounts.len() as u32);
        for (tenant, account) in accounts {
            put_bytes(&mut out, self.tenants.name(tenant as u32));
            for of in [&account.balance, &account.early, &account.asked] {
                of[..BUDGETS].iter().for_each(|value| put_f64(&mut out, *value));
            }
            put_u64(&mut out, account.early_ns);
            out.push(u8::from(account.is_present));
        }
        self.late.encode(&mut out, undecided);
        out
    }

    /// Takes up the state of a checkpoint, before anything is offered.
    ///
    /// # Errors
    /// [`Malformed`]; then the sampler is as new.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if !(1..=VERSION).contains(&version) {
            return Err(Malformed);
        }
        let tokens: [f64; BUDGETS] = [reader.f64()?, reader.f64()?];
        let (last_ns, day, day_spent, tick) = (reader.u64()?, reader.u64()?, reader.f64()?, reader.u64()?);
        let mut services = Vec::new();
        for _ in 0..reader.u32()? {
            services.push((reader.bytes()?, reader.f64()?, reader.u8()? != 0));
        }
        let mut accounts = Vec::new();
        for _ in 0..if version < 3 { 0 } else { reader.u32()? } {
            let name = std::str::from_utf8(reader.bytes()?).map_err(|_| Malformed)?;
            let mut account = Account::default();
            for of in [&mut account.balance, &mut account.early, &mut account.asked] {
                for value in &mut of[..BUDGETS] {
                    *value = Some(reader.f64()?).filter(|value| value.is_finite()).ok_or(Malformed)?;
                }
            }
            (account.early_ns, account.is_present) = (reader.u64()?, reader.u8()? != 0);
            accounts.push((name, account));
        }
        let late = match version {
            1 => self.late.decode_first(&mut reader)?,
            _ => self.late.decode(&mut reader)?,
        };
        reader.end()?;
        self.late = late;
        // Full of names, most of them gone for long (some change with each deployment): those that are still there come again.
        services.truncate(if services.len() < SERVICES_MAX { SERVICES_MAX } else { 1 });
        for (name, ratio, has_failed) in services {
            let number = self.service_number(name);
            let service = &mut self.service[number as usize];
            service.ratio = ratio.clamp(1e-4, 100.0);
            service.audit.failed = has_failed;
        }
        for (name, account) in accounts {
            let tenant = self.tenant(name);
            *self.controller.account(tenant) = account;
        }
        let controller = &mut self.controller;
        controller.tokens[..BUDGETS].copy_from_slice(&tokens);
        controller.last_ns = last_ns;
        (controller.day, controller.day_spent) = (day, day_spent);
        self.tick = tick;
        Ok(())
    }

    /// Forgets what became of decided traces.
    pub fn forget(&mut self) {
        self.late.clear();
    }

    /// What became of a tenant's trace, if it is remembered.
    pub fn recall(&self, tenant: u32, trace: TraceId) -> Option<Late> {
        self.late.find(self.own(tenant, trace))
    }
}
